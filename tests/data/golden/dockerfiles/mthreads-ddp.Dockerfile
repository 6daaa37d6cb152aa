# mthreads, engine ddp. Made by nx8 from dockerfiles/mthreads/Dockerfile.j2; changes here are lost.
FROM sh-harbor.mthreads.com/mt-ai/lm-qy2:FlagPerf-v1
LABEL nx8.vendor=mthreads nx8.engine=ddp
# The Python with torch_musa and the MUSA libraries: where the published image keeps them.
ENV PATH=/opt/conda/envs/py38/bin:$PATH
ENV LD_LIBRARY_PATH=/usr/local/musa/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# Installs only what the base image lacks, so a base that has everything builds without a network.
COPY nx8/provide.py /opt/nx8/provide.py
RUN ["python3", "/opt/nx8/provide.py", "torch"]
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY nx8/trainer/ /opt/nx8/trainer/
WORKDIR /opt/nx8
CMD ["python3", "/opt/nx8/trainer/launch.py", "--help"]
