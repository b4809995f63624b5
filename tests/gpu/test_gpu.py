"""What only a GPU shows: every backend on it, taps around flash attention, loss scaling, NCCL."""

import copy
import time

import pytest
import torch
from functional.test_streaming import layer, literal
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from shd_vit.functional import Mask, attention_maps, shd_loss
from shd_vit.functional.triton import choice
from shd_vit.losses import SHDLoss

pytestmark = pytest.mark.gpu
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
N = 70  # more than a block of queries, and no multiple of one


def on_gpu(x, dtype):
    return x.detach().to('cuda', dtype) if torch.is_tensor(x) else x


def compare(backend, dtype, mask, distance='kl'):
    args = layer(mask, (2, 4), N=N, D=31)
    there = [on_gpu(x, dtype) for x in args]
    exact = [x.double().cpu() if torch.is_tensor(x) else x for x in there]
    leaves = [[x.requires_grad_() for x in own[:2]] for own in (there, exact)]
    expected = literal(exact, mask, distance=distance)
    own = mask._replace(
        **{n: t.cuda() for n in ('padding', 'documents') if (t := getattr(mask, n)) is not None}
    )
    loss = shd_loss(*there, 1.5, distance=distance, mask=own, teacher_mask=own, backend=backend)
    near = TOLERANCES[dtype]
    assert_close(loss.cpu().double(), expected, rtol=near, atol=near)
    gradients = zip(
        torch.autograd.grad(loss, leaves[0]), torch.autograd.grad(expected, leaves[1]), strict=True
    )
    for found, wanted in gradients:
        assert found.dtype == dtype
        assert (found.cpu().double() - wanted).norm() <= 10 * near * wanted.norm()


def chosen_masks():
    left, right = torch.ones(2, 2, N, dtype=torch.bool).unbind(0)
    left[0, :30], right[1, -20:] = False, False
    return {
        'none': Mask(),
        'causal': Mask(is_causal=True),
        'window': Mask(is_causal=True, window=20),
        'padded left': Mask(is_causal=True, padding=left),
        'padded right': Mask(padding=right),
        'packed': Mask(is_causal=True, documents=torch.arange(2 * N).view(2, N) // 25),
    }


@pytest.mark.parametrize(
    'dtype, name',
    [
        (dtype, name)
        for dtype in TOLERANCES
        for name in chosen_masks()
        if dtype != torch.float32 or name in ('none', 'padded left')  # compiling takes long
    ],
)
@pytest.mark.parametrize('backend', ['torch', 'triton'])
def test_loss_and_gradients(backend, dtype, name, monkeypatch):
    monkeypatch.setattr(choice, '_is_examining', True)  # whatever a comparison would say
    compare(backend, dtype, chosen_masks()[name])


@pytest.mark.parametrize('dtype', TOLERANCES)
@pytest.mark.parametrize('name', ['none', 'padded left'])
def test_loss_and_gradients_through_the_compiler(name, dtype, dynamo):
    compare('compile', dtype, chosen_masks()[name])


@pytest.mark.parametrize('dtype', TOLERANCES)
@pytest.mark.parametrize('backend', ['torch', 'triton'])
def test_squared_errors(backend, dtype, monkeypatch):
    monkeypatch.setattr(choice, '_is_examining', True)
    compare(backend, dtype, chosen_masks()['causal'], 'mse')


def model(heads=3, **kwargs):
    timm = pytest.importorskip('timm')
    torch.manual_seed(heads)
    sizes = dict(img_size=64, patch_size=8, depth=2, num_classes=10, num_heads=heads)
    return timm.create_model('vit_tiny_patch16_224', embed_dim=64 * heads, **sizes, **kwargs).cuda()


def task(**losses):
    pytest.importorskip('timm.task')
    from shd_vit.hosts.timm.task import SHDDistillationTask

    return SHDDistillationTask(
        *(model(3), model(6), nn.CrossEntropyLoss()),
        device=torch.device('cuda'), verbose=False, **losses,
    ).train()  # fmt: skip


def batch():
    torch.manual_seed(5)
    return torch.randn(4, 3, 64, 64, device='cuda'), torch.randint(10, (4,), device='cuda')


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_taps_leave_flash_attention_on_and_have_what_it_gets(dtype):
    from shd_vit.taps import TapBank

    plain = model().to(dtype).eval()
    tapped = copy.deepcopy(plain)
    bank = TapBank(tapped, [1, 2])
    images = batch()[0].to(dtype)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.no_grad():  # any other would raise
        expected = plain(images)
        with bank.record():
            found = tapped(images)
    assert torch.equal(found, expected)
    tap = bank.collect().attention[1]
    maps = attention_maps(tap.q, tap.k, tap.scale)
    out = (maps @ tap.v.float()).transpose(1, 2).flatten(2)
    block = plain.blocks[1].attn
    kept = []
    handle = block.proj.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    with torch.no_grad():
        plain(images)
    handle.remove()
    assert_close(out, kept[0].float(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize('backend', ['torch', 'triton', 'auto'])
def test_float16_under_a_loss_scale(backend):
    """Gradients after the scale are those of float32, and none is lost below float16's range."""
    half, full = (task(shd=dict(backend=backend), task_loss_weight=1.0) for _ in range(2))
    full(*batch())['loss'].backward()
    scaler = torch.amp.GradScaler('cuda', init_scale=2.0**14)
    with torch.autocast('cuda', torch.float16):
        loss = half(*batch())['loss']
    scaler.scale(loss).backward()
    optimiser = torch.optim.SGD(half.trainable_module.parameters(), 0.1)
    scaler.unscale_(optimiser)
    pairs = zip(half.trainable_module.parameters(), full.trainable_module.parameters(), strict=True)
    for found, wanted in pairs:
        assert found.grad.isfinite().all()
        assert (found.grad - wanted.grad).norm() <= 0.05 * wanted.grad.norm() + 1e-4
    scaler.step(optimiser)


@pytest.mark.parametrize('dtype', [torch.bfloat16])
def test_a_whole_step_compiled(dtype, dynamo):
    plain, compiled = task(shd=dict(backend='torch')), task(shd={})
    compiled.compile()
    with torch.autocast('cuda', dtype):
        expected, found = plain(*batch()), compiled(*batch())
    assert_close(found['shd_loss'], expected['shd_loss'], rtol=2e-2, atol=1e-4)
    found['loss'].backward()
    assert all(p.grad.isfinite().all() for p in compiled.trainable_module.parameters())


def test_nccl_in_one_process(tmp_path):
    import torch.distributed as dist

    alone, wrapped = task(shd={}), task(shd={})
    where = f'file://{tmp_path}/store'
    dist.init_process_group('nccl', init_method=where, rank=0, world_size=1)
    try:
        wrapped.prepare_distributed([0])
        for own in (alone, wrapped):
            own(*batch())['loss'].backward()
        pairs = zip(
            alone.trainable_module.parameters(), wrapped.trainable_module.parameters(), strict=True
        )
        for one, other in pairs:
            assert_close(other.grad, one.grad)
    finally:
        dist.destroy_process_group()


def test_a_batch_of_the_loader_is_pinned(tmp_path):
    pytest.importorskip('ffcv')
    pytest.importorskip('mmpretrain')
    import numpy as np

    from shd_vit.data.writer import write_beton
    from shd_vit.hosts.mmpretrain.ffcv_loader import FFCVLoader

    path = tmp_path / 'a.beton'
    pixels = np.random.default_rng(0).integers(256, size=(40, 40, 3), dtype=np.uint8)
    write_beton(path, [(pixels, label) for label in range(4)])
    pipeline = [dict(type='RandomResizedCrop', scale=32), dict(type='PackInputs')]
    loader = FFCVLoader(str(path), batch_size=2, pipeline=pipeline, num_workers=1)
    assert all(b['inputs'].is_pinned() for b in loader)


def test_the_log_says_what_runs(caplog):
    loss = SHDLoss()
    assert loss.backend == 'auto'
    args = [on_gpu(x, torch.bfloat16) for x in layer(chosen_masks()['none'], (2, 4), N=N)]
    with caplog.at_level('INFO', choice.__name__):
        choice._errors.clear(), choice._fastest.clear()
        shd_loss(*args)
    assert 'runs by' in caplog.text


def test_kernel_time_leaves_out_what_the_host_does():
    from shd_vit.lab.gpu.timing import kernel_milliseconds, milliseconds

    left = torch.randn(512, 512, device='cuda')

    def slow():
        left @ left
        time.sleep(0.2)
        left @ left

    assert 0 < kernel_milliseconds(slow) < 100 < milliseconds(slow, 1)
