# nvidia, engine deepspeed. Made by nx8 from dockerfiles/nvidia/Dockerfile.j2; changes here are lost.
FROM nvcr.io/nvidia/pytorch:23.09-py3
LABEL nx8.vendor=nvidia nx8.engine=deepspeed
# Installs only what the base image lacks, so a base that has everything builds without a network.
COPY nx8/provide.py /opt/nx8/provide.py
RUN ["python3", "/opt/nx8/provide.py", "torch", "deepspeed=deepspeed==0.14.5", "PIL=pillow==10.4.0", "flash_attn"]
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY nx8/trainer/ /opt/nx8/trainer/
WORKDIR /opt/nx8
CMD ["python3", "/opt/nx8/trainer/launch.py", "--help"]
