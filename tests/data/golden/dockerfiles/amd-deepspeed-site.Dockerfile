# amd, engine deepspeed. Made by nx8 from dockerfiles/amd/Dockerfile.j2; changes here are lost.
FROM registry.example.org:5000/mirror/rocm/pytorch:rocm6.0.2_ubuntu22.04_py3.10_pytorch_2.1.2
LABEL nx8.vendor=amd nx8.engine=deepspeed
# Installs only what the base image lacks, so a base that has everything builds without a network.
COPY nx8/provide.py /opt/nx8/provide.py
COPY nx8/wheels/ /opt/nx8/wheels/
RUN ["python3", "/opt/nx8/provide.py", "--index-url=http://pip.example.org/simple/", "--trusted-host=pip.example.org", "--find-links=/opt/nx8/wheels", "torch", "deepspeed=deepspeed==0.14.5"]
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY nx8/trainer/ /opt/nx8/trainer/
WORKDIR /opt/nx8
CMD ["python3", "/opt/nx8/trainer/launch.py", "--help"]
