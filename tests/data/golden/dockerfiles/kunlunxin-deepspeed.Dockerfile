# kunlunxin, engine deepspeed. Made by nx8 from dockerfiles/kunlunxin/Dockerfile.j2; changes here are lost.
FROM localhost/xpytorch/kunlunxin-deepspeed:v1.0
LABEL nx8.vendor=kunlunxin nx8.engine=deepspeed
# The Python with XPyTorch: where the published image keeps it.
ENV PATH=/root/miniconda/envs/python38_torch201_cuda/bin:$PATH
# Installs only what the base image lacks, so a base that has everything builds without a network.
COPY nx8/provide.py /opt/nx8/provide.py
RUN ["python3", "/opt/nx8/provide.py", "torch", "deepspeed=deepspeed==0.14.5"]
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY nx8/trainer/ /opt/nx8/trainer/
WORKDIR /opt/nx8
CMD ["python3", "/opt/nx8/trainer/launch.py", "--help"]
