# SPDX-License-Identifier: Apache-2.0
# What a robot needs, recorder and estimator, on amd64 or arm64; without torch, MuJoCo and RViz. From the checkout:
#   docker build --file docker/robot.Dockerfile --tag ledpose_ros:robot .
#   docker run --rm --network host --ipc host ledpose_ros:robot ros2 launch ledpose_ros estimate.launch.py
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-base

# What has no package in Ubuntu comes by pip, beside Ubuntu's own: from 24.04 on that has to be allowed.
ENV PIP_BREAK_SYSTEM_PACKAGES=1
ENV PIP_CONSTRAINT=/etc/pip-constraints.txt
ENV PIP_NO_CACHE_DIR=1
COPY docker/constraints.txt /etc/pip-constraints.txt

# package.xml alone at first, so that its dependencies are installed anew only when it changes.
WORKDIR /opt/ledpose
COPY package.xml src/ledpose_ros/
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-pip \
    && rosdep update --rosdistro "$ROS_DISTRO" \
    && rosdep install --from-paths src --ignore-src --dependency-types exec --default-yes \
    && rm -rf /var/lib/apt/lists/*

COPY . src/ledpose_ros/
# Importing tells whether pip's and Ubuntu's packages fit together.
RUN . "/opt/ros/$ROS_DISTRO/setup.sh" \
    && colcon build --merge-install \
    && . install/setup.sh \
    && python3 -c "import cv_bridge.boost.cv_bridge_boost, ledpose_ros.nodes.recorder, ledpose_ros.nodes.estimator"

COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/ledpose-entrypoint
# The number of the first user of most machines: Fast DDS shares memory only among programs of one user.
ARG UID=1000
RUN useradd --create-home --shell /bin/bash --non-unique --uid "$UID" ledpose
# hadolint ignore=DL3066
USER ledpose
WORKDIR /home/ledpose
ENTRYPOINT ["ledpose-entrypoint"]
CMD ["bash"]
