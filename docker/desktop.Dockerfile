# SPDX-License-Identifier: Apache-2.0
# Everything beside the robot: trainer, simulator and RViz as well. From the checkout:
#   docker build --file docker/desktop.Dockerfile --tag ledpose_ros:desktop .
#   docker run --rm --network host --ipc host --volume "$PWD:/data" --workdir /data ledpose_ros:desktop ledpose --help
# RViz needs a screen, say with: --env DISPLAY --volume /tmp/.X11-unix:/tmp/.X11-unix
ARG ROS_DISTRO=jazzy
FROM osrf/ros:${ROS_DISTRO}-desktop

# What has no package in Ubuntu comes by pip, beside Ubuntu's own: from 24.04 on that has to be allowed.
ENV PIP_BREAK_SYSTEM_PACKAGES=1
ENV PIP_CONSTRAINT=/etc/pip-constraints.txt
ENV PIP_NO_CACHE_DIR=1
COPY docker/constraints.txt /etc/pip-constraints.txt

# package.xml alone at first, so that its dependencies are installed anew only when it changes. The libraries let
# MuJoCo render without a screen.
WORKDIR /opt/ledpose
COPY package.xml src/ledpose_ros/
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-pip libegl1 libgl1-mesa-dri libopengl0 \
    && rosdep update --rosdistro "$ROS_DISTRO" \
    && rosdep install --from-paths src --ignore-src --default-yes \
    && rm -rf /var/lib/apt/lists/*

# The extras, as setup.py hands them to pip. PyPI's torch brings CUDA; for a smaller one without:
#   --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG PIP_EXTRA_INDEX_URL=
COPY ledpose_ros/__init__.py ledpose_ros/errors.py ledpose_ros/cli.py src/ledpose_ros/ledpose_ros/
COPY ledpose_ros/commands src/ledpose_ros/ledpose_ros/commands
# Ubuntu's own packages cannot be replaced by pip, only covered.
RUN PYTHONPATH=src/ledpose_ros python3 -c "from ledpose_ros.cli import EXTRAS; print(*sum(EXTRAS.values(), ()), sep='\n')" \
        > /tmp/extras.txt \
    && pip3 install --ignore-installed --requirement /tmp/extras.txt \
    && rm /tmp/extras.txt

COPY . src/ledpose_ros/
# Importing tells whether pip's and Ubuntu's packages fit together.
RUN . "/opt/ros/$ROS_DISTRO/setup.sh" \
    && colcon build --merge-install \
    && . install/setup.sh \
    && python3 -c "import cv_bridge.boost.cv_bridge_boost, ledpose_ros.nodes.recorder, ledpose_ros.nodes.estimator" \
    && python3 -c "import torch, onnxscript, ledpose_ros.simulation"

COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/ledpose-entrypoint
# The number of the first user of most machines: Fast DDS shares memory only among programs of one user.
ARG UID=1000
RUN useradd --create-home --shell /bin/bash --non-unique --uid "$UID" ledpose
# hadolint ignore=DL3066
USER ledpose
WORKDIR /home/ledpose
ENTRYPOINT ["ledpose-entrypoint"]
CMD ["bash"]
