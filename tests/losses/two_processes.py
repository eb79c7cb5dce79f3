"""Run one of the processes of `TestTwoProcesses`.

Imports the losses without the package above them, which would import TorchGeo: half a
minute for two processes on one core.
"""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import torch
from lightly.utils import dist
from torch import Tensor


def main(folder: Path, rank: int, world_size: int) -> None:
    cases = torch.load(folder / 'cases.pt', weights_only=True)
    torch.distributed.init_process_group(
        'gloo', f'file://{folder}/rendezvous', rank=rank, world_size=world_size
    )
    losses = import_losses()
    found = {name: step(losses, case, rank, world_size) for name, case in cases.items()}
    torch.save(found, folder / f'rank{rank}.pt')
    torch.distributed.destroy_process_group()


def step(losses: object, case: dict, rank: int, world_size: int) -> dict[str, object]:
    torch.manual_seed(0)
    criterion = getattr(losses, case['loss'])(**case.get('arguments', {})).double()
    weight = {m: w.requires_grad_() for m, w in case['weight'].items()}
    z = {m: x.chunk(world_size, dim=1)[rank] @ weight[m] for m, x in case['x'].items()}
    local = criterion(z)['loss'].item()
    masks = {m: x.chunk(world_size)[rank] for m, x in case['masks'].items()}
    gathered = {m: gather(v[None])[0].bool() for m, v in masks.items()}
    out = criterion({m: gather(v) for m, v in z.items()}, gathered or None)
    out['loss'].backward()
    weight |= dict(criterion.named_parameters())
    for w in weight.values():
        torch.distributed.all_reduce(w.grad)
    return {
        'out': {k: v.detach() for k, v in out.items()},
        'gradient': {m: w.grad / world_size for m, w in weight.items()},
        'local': local,
    }


def gather(z: Tensor) -> Tensor:
    z = z.to(torch.uint8) if z.dtype == torch.bool else z
    return torch.cat(dist.gather(z.contiguous()), dim=1)


def import_losses() -> object:
    package = find_spec('torchgeo_decur')
    file = Path(package.submodule_search_locations[0], 'losses', '__init__.py')
    spec = spec_from_file_location('losses', file)
    module = sys.modules['losses'] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == '__main__':
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
