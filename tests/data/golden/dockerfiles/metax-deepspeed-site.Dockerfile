# metax, engine deepspeed. Made by nx8 from dockerfiles/metax/Dockerfile.j2; changes here are lost.
FROM localhost/maca-2.20.2.2:megatron-deepspeed
LABEL nx8.vendor=metax nx8.engine=deepspeed
# MACA, and the bridge that answers for CUDA.
ENV MACA_PATH=/opt/maca CUDA_PATH=/opt/maca/tools/cu-bridge
ENV PATH=/opt/maca/bin:$PATH
ENV LD_LIBRARY_PATH=/opt/maca/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# Installs only what the base image lacks, so a base that has everything builds without a network.
COPY nx8/provide.py /opt/nx8/provide.py
COPY nx8/wheels/ /opt/nx8/wheels/
RUN ["python3", "/opt/nx8/provide.py", "--index-url=http://pip.example.org/simple/", "--trusted-host=pip.example.org", "--find-links=/opt/nx8/wheels", "torch", "deepspeed"]
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY nx8/trainer/ /opt/nx8/trainer/
WORKDIR /opt/nx8
CMD ["python3", "/opt/nx8/trainer/launch.py", "--help"]
