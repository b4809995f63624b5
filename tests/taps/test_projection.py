"""The output projection's weight of a tap against what the layer makes of its input."""

import copy
import warnings

import peft
import pytest
import timm
import torch
from taps.zoo import ZOO, encoder, timm_vit
from torch import nn
from torch.nn.utils import parametrizations
from torch.testing import assert_close

from shd_vit.errors import UnsupportedAttention
from shd_vit.taps import ATTENTION_TAPS, Anatomy, AttentionFamily, AttentionTap, TapBank
from shd_vit.taps.projection import check_projection, output_projection, read_weight

# One a way in which libraries write attention.
FAMILIES = [
    'mmpretrain ViT',
    'mmpretrain BEiT',
    'mmpretrain Swin',
    'timm DeiT3',
    'timm EVA, rotary',
    'timm BEiT',
    'timm Swin',
    'Hugging Face ViT',
    'GPT-2',
    'LLaMA, grouped heads',
]


def adapted(model, **kwargs):
    """Adapters with random weights at the output projections of all attention."""
    names = [
        f'{layer.name}.{name}'
        for layer in Anatomy(model).layers
        for name, module in layer.attn.named_children()
        if module is output_projection(layer.attn)
    ]
    options = dict(r=4, lora_alpha=8, lora_dropout=0.3, init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # peft about Conv1D and about tied weights
        config = peft.LoraConfig(target_modules=names, **{**options, **kwargs})
        peft.inject_adapter_in_model(config, model)
    model.eval()
    return model


def assert_taps_multiply_as_layers_do(model, run, rtol=1e-4, atol=1e-5):
    """Differences between rows of the projection's output, so that its bias has no part."""
    bank, seen = TapBank(model), []
    projections = [output_projection(layer.attn) for layer in bank.anatomy.layers]
    handles = [
        projection.register_forward_hook(lambda m, args, output: seen.append((args[0], output)))
        for projection in projections
    ]
    with torch.no_grad(), bank.record():
        run(model)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        taps = bank.collect().attention
    assert len(taps) == len(seen) > 0
    for tap, (x, y) in zip(taps, seen, strict=True):
        x, y = x.flatten(0, -2).float(), y.flatten(0, -2).float()
        expected = y[1:] - y[:-1]
        assert_close((x[1:] - x[:-1]) @ tap.out_proj.float().T, expected, rtol=rtol, atol=atol)
    return taps


@pytest.mark.parametrize('family', FAMILIES)
def test_an_adapter_is_part_of_the_weight_in_every_family(family):
    model, run = ZOO[family]()
    plain = TapBank(model).anatomy.layers[0]
    width = plain.family.dim(plain.attn)
    before = plain.family.out_proj(plain.attn).detach().clone()
    taps = assert_taps_multiply_as_layers_do(adapted(model), run)
    assert taps[0].out_proj.shape == before.shape
    assert (taps[0].out_proj - before).abs().max() > 1e-3
    assert Anatomy(model).layers[0].family.dim(Anatomy(model).layers[0].attn) == width


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('kind', ['DoRA', 'scaled', 'two', 'merged', 'disabled', 'training'])
def test_adapters_of_any_kind(kind, dtype):
    model = adapted(timm_vit('deit3_small_patch16_224'), use_dora=kind == 'DoRA')
    for block in model.blocks:
        layer = block.attn.proj
        nn.init.normal_(layer.base_layer.bias)
        if kind == 'scaled':
            layer.set_scale('default', 3.0)
        if kind == 'two':
            layer.update_layer('other', r=2, lora_alpha=2, config=_config())
            layer.set_adapter(['default', 'other'])
        if kind == 'merged':
            layer.merge()
        if kind == 'disabled':
            layer.enable_adapters(False)
    model = model.to(dtype)
    if kind == 'training':  # dropout is not in the weight, and flags are left as they are
        model.blocks[0].attn.proj.train()
        modules = list(model.modules())
        flags = [module.training for module in modules]
        first, second = (read_weight(model.blocks[0].attn.proj) for _ in range(2))
        assert_close(first, second, rtol=0, atol=0)
        assert [module.training for module in modules] == flags
        model.eval()
    tolerance = (1e-4, 1e-5) if dtype == torch.float32 else (0.05, 0.05)
    images = torch.randn(2, 3, 32, 32, dtype=dtype)
    assert_taps_multiply_as_layers_do(model, lambda m: m(images), *tolerance)


def _config():
    return peft.LoraConfig(r=2, lora_alpha=2, init_lora_weights=False)


class Wrapper(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer
        self.factor = nn.Parameter(torch.rand(24) + 0.5)

    def forward(self, x):
        return self.base_layer(x * self.factor)


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def replaced(layer, kind):
    if kind == 'wrapper':
        return Wrapper(layer)
    if kind == 'subclass':
        new = Scaled(24, 24)
        new.load_state_dict(layer.state_dict())
        return new
    if kind == 'parametrized':
        layer = parametrizations.weight_norm(layer)
        nn.init.uniform_(layer.parametrizations.weight.original0)
        return layer
    if kind == 'hooked':
        layer.register_forward_hook(lambda module, args, output: 3 * output)
        return layer
    layer.forward = lambda x, forward=layer.forward: forward(x) / 2  # as accelerate replaces it
    return layer


@pytest.mark.parametrize(
    'kind', ['wrapper', 'subclass', 'parametrized', 'hooked', 'another forward']
)
def test_what_stands_around_a_linear_layer_is_part_of_the_weight(kind):
    model = timm_vit().eval()
    for block in model.blocks:
        block.attn.proj = replaced(block.attn.proj, kind)
    assert_taps_multiply_as_layers_do(model, lambda m: m(torch.ones(1, 3, 32, 32).cumsum(-1)))


def test_dynamically_quantised_weights_are_dequantised():
    model = timm_vit().eval()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    bank = TapBank(quantised)
    with torch.no_grad(), bank.record():
        quantised(torch.randn(1, 3, 32, 32))
    for tap, block in zip(bank.collect().attention, quantised.blocks, strict=True):
        assert_close(tap.out_proj, block.attn.proj.weight().dequantize(), rtol=1e-5, atol=1e-6)


class Packed(torch.Tensor):
    """Codes in the coat of a weight: a subclass, as those of torchao."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is nn.functional.linear:
            x, weight, bias = args
            with torch._C.DisableTorchFunctionSubclass():
                return nn.functional.linear(x, weight.as_subclass(torch.Tensor) / 16, bias)
        return super().__torch_function__(func, types, args, kwargs)


class EightBit(nn.Module):
    """As bitsandbytes' layers: int8 codes, rows with a scale each, half precision inside."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        codes = (linear.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


def test_packed_weights_are_not_taken_for_numbers():
    linear = nn.Linear(24, 24)
    codes = (linear.weight.detach() * 16).round()
    linear.weight = nn.Parameter(codes.as_subclass(Packed), requires_grad=False)
    assert type(linear) is nn.Linear
    eight = EightBit(nn.Linear(24, 24))
    for layer, weight in ((linear, codes / 16), (eight, eight.weight * eight.scale)):
        model = timm_vit().eval()
        model.blocks[0].attn.proj = layer
        bank = TapBank(model, layers=[1])
        with bank.record():
            model(torch.randn(1, 3, 32, 32))
        out_proj = bank.collect().attention[0].out_proj
        assert type(out_proj) is torch.Tensor
        assert_close(out_proj, weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['Linear8bitLt', 'Linear4bit'])
def test_layers_of_bitsandbytes(name):
    bitsandbytes = pytest.importorskip('bitsandbytes')
    plain = nn.Linear(64, 64)
    options = dict(has_fp16_weights=False) if '8bit' in name else {}
    layer = getattr(bitsandbytes.nn, name)(64, 64, **options)
    layer.load_state_dict(plain.state_dict())
    layer = layer.to('cpu')
    weight = read_weight(layer)
    check_projection(layer, weight)
    assert torch.dist(weight, plain.weight) < (0.01 if '8bit' in name else 0.2) * weight.norm()


def test_layers_of_torchao():
    quantization = pytest.importorskip('torchao.quantization')
    plain = nn.Linear(64, 64)
    packed = nn.Sequential(copy.deepcopy(plain))
    quantization.quantize_(packed, quantization.Int8WeightOnlyConfig())
    weight = read_weight(packed[0])
    check_projection(packed[0], weight)
    assert torch.dist(weight, plain.weight) < 0.02 * weight.norm()


class Gated(nn.Linear):
    def forward(self, x):
        return super().forward(x).relu()


class Pair(nn.Module):
    in_features = out_features = 24

    def forward(self, x):
        return x, x


def sharded():
    linear = nn.Linear(24, 24)
    linear.weight.data = torch.empty(0)  # as FSDP and DeepSpeed leave it
    return linear


def freed():
    linear = nn.Linear(24, 24)
    linear.weight.untyped_storage().resize_(0)  # as FSDP between two forward passes
    return linear


@pytest.mark.parametrize(
    'layer, reason',
    [
        (lambda: Gated(24, 24), r'test_projection\.Gated.* not linear'),
        (lambda: Pair(), r'Pair .*does not take rows'),
        (lambda: nn.Sequential(nn.Flatten(0, 1)), 'Sequential .*no in_features'),
        (lambda: nn.Linear(24, 24, device='meta'), r'Linear .*meta device'),
        (lambda: Scaled(24, 24, device='meta'), r'Scaled .*meta device'),
        (sharded, r'Linear .*sharded'),
        (freed, r'Linear .*sharded'),
    ],
)
def test_what_cannot_be_read_is_refused_by_class_and_layer(layer, reason):
    model = timm_vit()
    model.blocks[1].attn.proj = layer()
    with pytest.raises(UnsupportedAttention, match=rf"'blocks.1.attn' of the teacher: .*{reason}"):
        TapBank(model, role='teacher')
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_student_needs_no_output_projection():
    model = timm_vit()
    bank = TapBank(model, out_proj=False)
    for block in model.blocks:
        block.attn.proj = Gated(24, 24)
    with bank.record():
        model(torch.randn(1, 3, 32, 32))
    assert all(tap.out_proj.shape == (0, 0) for tap in bank.collect().attention)


def test_what_becomes_sharded_later_is_refused_when_it_is_read():
    model = timm_vit()
    bank = TapBank(model)
    with bank.record():
        model(torch.randn(1, 3, 32, 32))
    model.blocks[0].attn.proj.weight.data = torch.empty(0)
    with pytest.raises(UnsupportedAttention, match='sharded'):
        bank.collect()


def test_peft_around_the_attention_of_torch_is_refused_until_merged():
    case = encoder()()
    config = peft.LoraConfig(r=2, target_modules=['self_attn'], init_lora_weights=False)
    peft.inject_adapter_in_model(config, case.model)
    with pytest.raises(UnsupportedAttention, match=r'peft\..*merge'):
        TapBank(case.model)


def test_a_plain_layer_gives_its_parameter_and_is_not_run():
    layer = nn.Linear(4, 3)
    layer.register_full_backward_hook(lambda *args: None)
    assert read_weight(layer) is layer.weight
    in_attention = nn.MultiheadAttention(24, 3).out_proj  # a subclass that adds nothing
    assert read_weight(in_attention) is in_attention.weight


def test_a_family_of_ones_own_is_held_against_its_layer():
    """One that reads ``weight`` off a layer that multiplies by something else."""

    class Mine(timm.layers.Attention):
        def forward(self, x):
            return super().forward(x)

    @ATTENTION_TAPS.register(Mine)
    class MineFamily(AttentionFamily):
        outputs = ('qkv',)

        def out_proj(self, attn):
            return attn.proj.weight

        def read(self, attn, outputs, call):
            q, k, v = outputs['qkv'].unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
            return AttentionTap(q, k, v, attn.proj.weight, attn.scale)

    model = nn.Sequential(Mine(24, 3))
    TapBank(model)
    model[0].proj = Scaled(24, 24)
    with pytest.raises(UnsupportedAttention, match=r'Scaled .*not what it multiplies by'):
        TapBank(model)
