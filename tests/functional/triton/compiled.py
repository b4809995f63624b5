"""What the kernels become on cards that are not here: by Triton's compiler alone, without a driver.

python -m functional.triton.compiled 80          # from tests/, of a compute capability
python -m functional.triton.compiled 80 whole    # short maps by whole rows, even so
"""

import json
import re
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.knobs import nvidia
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from shd_vit.functional import Mask, shd_loss
from shd_vit.functional.masks import ALL_KEYS
from shd_vit.functional.triton import choice, sides

LOW, FULL = torch.bfloat16, torch.float32
CASES = {
    '197 tokens': dict(N=197, D=64),
    '128 tokens': dict(N=128, D=64),
    '197 tokens of 32': dict(N=197, D=32),
    '512 tokens': dict(N=512, D=64),
    '512 tokens of 128, causal': dict(N=512, D=128, mask=Mask(is_causal=True)),
    '512 tokens, groups of 3, MSE': dict(N=512, D=64, heads=(2, 6), distance='mse'),
    '512 tokens, float32': dict(N=512, D=64, dtype=FULL),
    '512 tokens of 128, float32': dict(N=512, D=128, dtype=FULL),
}


def kernels_on(capability: int, whole: bool) -> list[dict]:
    """Registers, stack and shared memory, in bytes, of the kernels of each case."""
    target = GPUTarget('cuda', capability, 32)
    device = dict(get_current_device=lambda: 0, get_current_stream=lambda device: 0)
    driver.set_active(SimpleNamespace(**device, get_current_target=lambda: target))
    torch.cuda.get_device_capability = lambda device: divmod(capability, 10)
    holds_rows = sides.holds_rows
    sides.holds_rows = lambda device: whole or holds_rows(torch.device('cuda'))
    choice._unavailable = lambda device, backend: None
    choice._is_examining = True
    found, made = [], []

    def compiled(self, key, signature, device, constants, options, attributes, warmup):
        source = ASTSource(self, signature, constants, attributes)
        kernel = compile(source, target=target, options=options.__dict__)
        made.append(dict(kernel=self.fn.__name__, **resources(kernel)))
        nothing = SimpleNamespace(
            run=lambda *args: None, launch_metadata=lambda *args: None, function=0,
            packed_metadata=None,
        )  # fmt: skip
        return self.device_caches[device][0].setdefault(key, nothing)

    JITFunction._do_compile = compiled
    for case, options in CASES.items():
        made.clear()
        run(**options)
        found += [dict(case=case, **kernel) for kernel in made]
    return found


def resources(kernel) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(kernel.asm['cubin'])
        file.flush()
        command = [nvidia.cuobjdump.path, '--dump-resource-usage', file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r'REG:(\d+) STACK:(\d+)', said).groups()
    return dict(registers=int(registers), stack=int(stack), shared=kernel.metadata.shared)


def run(N, D, heads=(3, 6), dtype=LOW, mask=ALL_KEYS, distance='kl'):
    student, teacher = (
        [x.to(dtype) for x in torch.randn(2, N, 3, H, D).permute(2, 0, 3, 1, 4)] for H in heads
    )
    q, k = (x.requires_grad_() for x in student[:2])
    out_proj = torch.randn(heads[1] * D, heads[1] * D)
    shd_loss(
        q, k, *teacher, out_proj, 0.125, 0.125, distance=distance,
        mask=mask, teacher_mask=mask, backend='triton',
    )  # fmt: skip


if __name__ == '__main__':  # in a process of its own: what is patched here stays patched
    capability, *whole = sys.argv[1:]
    lines = [json.dumps(row) for row in kernels_on(int(capability), bool(whole))]
    print('[' + ',\n'.join(lines) + ']')
