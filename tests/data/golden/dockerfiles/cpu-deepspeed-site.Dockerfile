# cpu, engine deepspeed. Made by nx8 from dockerfiles/cpu/Dockerfile.j2; changes here are lost.
FROM registry.example.org:5000/mirror/library/python:3.11-slim-bookworm
LABEL nx8.vendor=cpu nx8.engine=deepspeed
# Installs only what the base image lacks, so a base that has everything builds without a network.
COPY nx8/provide.py /opt/nx8/provide.py
COPY nx8/wheels/ /opt/nx8/wheels/
RUN ["python3", "/opt/nx8/provide.py", "--index-url=http://pip.example.org/simple/", "--trusted-host=pip.example.org", "--find-links=/opt/nx8/wheels", "torch=torch==2.13.0", "deepspeed=deepspeed==0.19.8"]
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY nx8/trainer/ /opt/nx8/trainer/
WORKDIR /opt/nx8
CMD ["python3", "/opt/nx8/trainer/launch.py", "--help"]
