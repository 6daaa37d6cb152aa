# nvidia, engine megatron. Made by nx8 from dockerfiles/nvidia/Dockerfile.j2; changes here are lost.
FROM nvcr.io/nvidia/pytorch:23.09-py3
LABEL nx8.vendor=nvidia nx8.engine=megatron
# Installs only what the base image lacks, so a base that has everything builds without a network.
COPY nx8/provide.py /opt/nx8/provide.py
RUN ["python3", "/opt/nx8/provide.py", "torch", "sentencepiece=sentencepiece==0.2.0"]
# The external program at its pinned commit; nothing of it is run while the image is built.
LABEL nx8.program=26cd6643c472f853e077779abaa51bb6a1c140bf
RUN ["git", "clone", "--quiet", "--no-checkout", "https://github.com/FlagOpen/FlagScale", "/workspace/FlagScale"]
WORKDIR /workspace/FlagScale
RUN ["git", "checkout", "--quiet", "26cd6643c472f853e077779abaa51bb6a1c140bf"]
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY nx8/trainer/ /opt/nx8/trainer/
WORKDIR /opt/nx8
CMD ["python3", "/opt/nx8/trainer/launch.py", "--help"]
