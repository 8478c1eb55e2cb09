"""Train on several machines by Ray Train, which starts processes in torchrun's place.

    python ray_train.py --processes 16 \
        /shared/train.py --epochs 5 --with distributed:strategy=fsdp2

What follows the options of this file is what ``callboard fit`` is given. Ray starts the
processes in a folder of their own, so name the file as all machines see it.
"""

import argparse
from typing import Any


def fit(config: dict[str, Any]) -> None:
    """Run ``callboard fit`` in one of the processes that Ray has brought together.

    Args:
        config: What Ray hands to each: ``arguments``, those of the command.
    """
    from callboard.cli import main

    main(["fit", *config["arguments"]], standalone_mode=False)


def start(arguments: list[str], num_processes: int, *, on_cpu: bool) -> None:
    """Let Ray start processes, on the cluster that it is connected to."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        fit,
        train_loop_config={"arguments": arguments},
        scaling_config=ScalingConfig(num_workers=num_processes, use_gpu=not on_cpu),
        # What is agreed on goes over gloo, which Ray leaves out of itself.
        torch_config=TorchConfig("gloo" if on_cpu else "cpu:gloo,cuda:nccl"),
    )
    trainer.fit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, required=True, help="one a GPU")
    parser.add_argument("--on-cpu", action="store_true")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    start(given.arguments, given.processes, on_cpu=given.on_cpu)
