"""One of the processes of `test_two_processes_equal_one`.

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
    case = torch.load(folder / 'case.pt', weights_only=True)
    torch.distributed.init_process_group(
        'gloo', f'file://{folder}/rendezvous', rank=rank, world_size=world_size
    )
    criterion = getattr(import_losses(), case['loss'])(**case['arguments'])
    weight = {m: w.requires_grad_() for m, w in case['weight'].items()}
    z = {m: x.chunk(world_size, dim=1)[rank] @ weight[m] for m, x in case['x'].items()}
    local = criterion(z)['loss'].item()
    out = criterion({m: gather(v) for m, v in z.items()})
    out['loss'].backward()
    for w in weight.values():
        torch.distributed.all_reduce(w.grad)
    torch.save(
        {
            'out': {k: v.detach() for k, v in out.items()},
            'gradient': {m: w.grad / world_size for m, w in weight.items()},
            'local': local,
        },
        folder / f'rank{rank}.pt',
    )
    torch.distributed.destroy_process_group()


def gather(z: Tensor) -> Tensor:
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
