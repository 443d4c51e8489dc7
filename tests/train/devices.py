"""One process of several in test_distributed.py: a step's loss and gradients, written to a file.

Started by torchrun, or alone. Arguments: the config as JSON, and the folder for the results.
"""

import json
import sys
from pathlib import Path

import torch

from tercet.train.config import from_tree
from tercet.train.distributed import World
from tercet.train.plan import prepare
from tercet.train.trainer import Trainer


def main() -> None:
    """Runs an epoch's batches and keeps their facts and the summed gradients."""
    torch.set_num_threads(1)
    config, target = from_tree(json.loads(sys.argv[1])), Path(sys.argv[2])
    world = World.start("cpu")
    ready = prepare(config, world)
    model, trainer = ready.checkpoint.model.train(), Trainer(ready, target)
    facts, gradients = [], {}
    for number in range(ready.sampler.per_epoch):
        model.zero_grad()
        facts.append(trainer.gradients(number, distil=True).facts)
        world.sum_gradients(model.parameters())
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                gradients[f"{number} {name}"] = parameter.grad.clone()
    torch.save({"facts": facts, "gradients": gradients}, target / f"{world.size}-{world.rank}.pt")
    world.stop()


if __name__ == "__main__":
    main()
