# nvidia, engine megatron. Made by nx8 from dockerfiles/nvidia/Dockerfile.j2; changes here are lost.
FROM nvcr.io/nvidia/pytorch:23.09-py3
LABEL nx8.vendor=nvidia nx8.engine=megatron
# Installs only what the base image lacks, so a base that has everything builds without a network.
COPY nx8/provide.py /opt/nx8/provide.py
RUN ["python3", "/opt/nx8/provide.py", "torch"]
# A rehearsal: no accelerator could run the real program, a stand-in takes its place.
COPY nx8/stand_in/ /workspace/FlagScale/
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY nx8/trainer/ /opt/nx8/trainer/
WORKDIR /opt/nx8
CMD ["python3", "/opt/nx8/trainer/launch.py", "--help"]
