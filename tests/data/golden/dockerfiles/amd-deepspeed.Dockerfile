# amd, engine deepspeed. Made by nx8 from dockerfiles/amd/Dockerfile.j2; changes here are lost.
FROM docker.io/rocm/pytorch:rocm6.0.2_ubuntu22.04_py3.10_pytorch_2.1.2
LABEL nx8.vendor=amd nx8.engine=deepspeed
# Installs only what the base image lacks, so a base that has everything builds without a network.
COPY nx8/provide.py /opt/nx8/provide.py
RUN ["python3", "/opt/nx8/provide.py", "torch", "deepspeed=deepspeed==0.14.5"]
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY nx8/trainer/ /opt/nx8/trainer/
WORKDIR /opt/nx8
CMD ["python3", "/opt/nx8/trainer/launch.py", "--help"]
