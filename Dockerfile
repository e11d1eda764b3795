# docker build -t vlm .                                                     on the CPU
# docker build -t vlm --build-arg INDEX=https://download.pytorch.org/whl/cu130 .   with CUDA
# docker run --rm -v "$PWD:/project" vlm fit -c easy_vqa                        (--gpus all with CUDA)
FROM python:3.11-slim
ARG INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
RUN pip install torch torchvision --index-url "$INDEX"
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE NOTICE /source/
COPY configs /source/configs
COPY vlm /source/vlm
RUN pip install "/source[train,encoders]" && rm -r /source && useradd --create-home vlm
USER vlm
WORKDIR /project
ENTRYPOINT ["vlm"]
CMD ["--help"]
