# hygon, engine ddp. Made by nx8 from dockerfiles/hygon/Dockerfile.j2; changes here are lost.
FROM image.sourcefind.cn:5000/dcu/admin/base/pytorch:2.4.1-ubuntu22.04-dtk25.04-py3.10-v2
LABEL nx8.vendor=hygon nx8.engine=ddp
# DTK and, from the node, the driver in /opt/hyhal: what `source /opt/dtk/env.sh` sets of it.
ENV ROCM_PATH=/opt/dtk
ENV PATH=/opt/dtk/bin:$PATH
ENV LD_LIBRARY_PATH=/opt/dtk/lib:/opt/hyhal/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# Installs only what the base image lacks, so a base that has everything builds without a network.
COPY nx8/provide.py /opt/nx8/provide.py
RUN ["python3", "/opt/nx8/provide.py", "torch"]
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY nx8/trainer/ /opt/nx8/trainer/
WORKDIR /opt/nx8
CMD ["python3", "/opt/nx8/trainer/launch.py", "--help"]
