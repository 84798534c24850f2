# SPDX-License-Identifier: Apache-2.0
"""Show in a web browser what the estimator sees: picture, map, LEDs, diagnostics.

Runs a ROS node that serves a page, by default to browsers on this machine alone. The page needs no internet.
Topics are remapped as for any node: ledpose view --ros-args -r image:=/camera/image_raw
"""

import argparse
import socket
import sys

from ledpose_ros.errors import LedposeError

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ledpose view`."""
    parser.add_argument(
        "--port",
        type=_port,
        default=DEFAULT_PORT,
        help=f"port of the page, 0 for a free one ({DEFAULT_PORT})",
    )
    parser.add_argument(
        "--host",
        default=DEFAULT_HOST,
        help=f"address to listen on ({DEFAULT_HOST}); 0.0.0.0 lets everybody in the network look",
    )
    parser.add_argument(
        "--namespace", default="", metavar="NS", help="of the estimator and its camera (none)"
    )
    parser.add_argument(
        "--rectified",
        action="store_true",
        help="the pictures are rectified, as on image_rect: P of the camera counts, not K and D",
    )
    parser.add_argument(
        "--ros-args",
        nargs=argparse.REMAINDER,
        default=[],
        help="all that follows goes to ROS, as -r FROM:=TO",
    )


def run(args: argparse.Namespace) -> int:
    """Run the node until Ctrl-C."""
    from rclpy.exceptions import InvalidNamespaceException
    from rclpy.validate_namespace import validate_namespace

    from ledpose_ros.nodes.common import run_node
    from ledpose_ros.nodes.viewer import ViewerNode
    from ledpose_ros.web_server import is_local

    def viewer() -> ViewerNode:
        node = ViewerNode(args.host, args.port, args.rectified)
        host = socket.gethostname() if args.host in ("0.0.0.0", "::") else args.host
        host = f"[{host}]" if ":" in host else host
        print(f"Open http://{host}:{node.port} in a browser; Ctrl-C ends.", flush=True)
        if not is_local(args.host):
            print(
                "warning: everybody who reaches this machine by network can now see what the camera sees",
                file=sys.stderr,
                flush=True,
            )
        return node

    remap = []
    if namespace := args.namespace.strip("/"):
        try:
            validate_namespace(f"/{namespace}")
        except InvalidNamespaceException as error:
            reason = str(error).partition("\n")[0].rstrip(":")
            raise LedposeError(f"'{args.namespace}' is no namespace: {reason}") from error
        remap = ["-r", f"__ns:=/{namespace}"]
    return run_node(viewer, ["--ros-args", *remap, *args.ros_args])


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 0 to 65535")
    return int(text)
