# cambricon, engine deepspeed. Made by nx8 from dockerfiles/cambricon/Dockerfile.j2; changes here are lost.
FROM localhost/flagperf:cambricon-v24.08.02-torch2.1.0-catch1.22.1-ubuntu22.04-py310-megatron-patch
LABEL nx8.vendor=cambricon nx8.engine=deepspeed
# As the published set-up exports them; CNCL over PCIe and MLU-Link inside a node, sockets or RDMA between nodes.
ENV NEUWARE_HOME=/usr/local/neuware
ENV PATH=/usr/local/neuware/bin:$PATH
ENV LD_LIBRARY_PATH=/usr/local/neuware/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# Installs only what the base image lacks, so a base that has everything builds without a network.
COPY nx8/provide.py /opt/nx8/provide.py
RUN ["python3", "/opt/nx8/provide.py", "torch", "deepspeed"]
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY nx8/trainer/ /opt/nx8/trainer/
WORKDIR /opt/nx8
CMD ["python3", "/opt/nx8/trainer/launch.py", "--help"]
