# SPDX-License-Identifier: Apache-2.0
"""Benchmarks, run from a checkout: `python -m benchmarks.accuracy`; see benchmarks/README.md."""
