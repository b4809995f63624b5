"""When a bank records: grad mode, several forwards, copies, compiled models."""

import copy
import json

import peft
import pytest
import torch
from taps.zoo import encoder, hugging_face, timm_vit
from torch.testing import assert_close

from shd_vit.errors import UnsupportedAttention
from shd_vit.taps import Anatomy, TapBank


def images():
    return torch.randn(1, 3, 32, 32)


@pytest.mark.parametrize('build', [timm_vit, lambda: hugging_face('ViT').model])
@pytest.mark.parametrize('where', ['around record', 'inside record'])
def test_a_model_that_was_run_without_gradients_is_not_blamed_for_checkpointing(build, where):
    model = build().train()
    bank = TapBank(model)
    with torch.set_grad_enabled(where == 'inside record'), bank.record(), torch.no_grad():
        model(images())
    assert torch.is_grad_enabled()
    assert not any(tap.q.requires_grad for tap in bank.collect().attention)


def test_collecting_without_gradients_does_not_hide_checkpointing():
    model = hugging_face('ViT').model.train()
    model.gradient_checkpointing_enable(dict(use_reentrant=True))
    model.embeddings.requires_grad_(True)
    bank = TapBank(model)
    with bank.record():
        model(pixel_values=images())
    with torch.no_grad(), pytest.raises(UnsupportedAttention, match='use_reentrant=False'):
        bank.collect()


def test_a_student_that_learns_in_its_output_projection_alone_is_told_that():
    model = timm_vit().requires_grad_(False)
    config = peft.LoraConfig(r=2, target_modules=['attn.proj'])
    peft.inject_adapter_in_model(config, model)
    bank = TapBank(model, role='student')
    with bank.record():
        model(images())
    with pytest.raises(UnsupportedAttention) as refusal:
        bank.collect()
    message = str(refusal.value)
    assert "'blocks.0.attn' of the student learns in proj.lora_A" in message
    assert 'frozen' in message and 'reentrant' not in message
    later = TapBank(model, layers=[2, 3])  # layers whose input depends on what learns
    with later.record():
        model(images())
    assert all(tap.q.requires_grad for tap in later.collect().attention)


def test_the_first_of_several_forwards_on_request():
    model = timm_vit().eval()
    bank = TapBank(model, tokens=[1, 'final'])
    one, other = images(), images()
    with bank.record():
        model(one)
    expected = bank.collect()
    with bank.record(first=True):
        model(one)
        model(other)
        model(torch.randn(3, 3, 32, 32))
    found = bank.collect()
    assert_close([tap.q for tap in found.attention], [tap.q for tap in expected.attention])
    assert_close(found.tokens['final'].x, expected.tokens['final'].x)
    with pytest.raises(RuntimeError, match=r'ran twice .*record\(first=True\)'), bank.record():
        model(one)
        model(other)


def test_the_first_forward_also_where_only_inner_modules_are_called():
    model = timm_vit().eval()
    bank = TapBank(model)
    one = images()
    with bank.record():
        model(one)
    expected = bank.collect().attention
    with bank.record(first=True):
        model.forward_features(one)
        model.forward_features(images())
    found = bank.collect().attention
    assert_close([tap.q for tap in found], [tap.q for tap in expected])


def test_a_copy_of_a_closed_model_of_transformers_is_as_it_was():
    model = hugging_face('ViT').model
    bank = TapBank(model)
    with bank.record():
        model(pixel_values=images())
    bank.collect()
    copied, config = copy.deepcopy(model), copy.deepcopy(model.config)
    bank.close()
    for each in (model.config, copied.config, config):
        assert each._attn_implementation == 'sdpa'
    assert_close(
        copied(pixel_values=torch.ones(1, 3, 32, 32)).last_hidden_state,
        model(pixel_values=torch.ones(1, 3, 32, 32)).last_hidden_state,
        rtol=0,
        atol=0,
    )


def test_a_copy_of_a_bank_and_its_model_records_for_itself():
    model = hugging_face('ViT').model.eval()
    bank = TapBank(model)
    bank_of_copy, copied = copy.deepcopy((bank, model))
    bank.close()
    with bank_of_copy.record():
        model(pixel_values=images())
        copied(pixel_values=images())
    assert len(bank_of_copy.collect().attention) == 3
    assert copied.config._attn_implementation == 'sdpa'


def test_saving_a_tapped_model_of_transformers_says_nothing_of_taps(tmp_path):
    model = hugging_face('ViT').model
    bank = TapBank(model)
    with bank.record():
        model(pixel_values=images())
        model.save_pretrained(tmp_path)
    text = (tmp_path / 'config.json').read_text()
    assert 'shd_vit' not in text and json.loads(text)['model_type'] == 'vit'
    assert not any('shd_vit' in name for name in model.state_dict())


def test_two_models_with_one_config_and_banks_that_come_and_go():
    model = hugging_face('ViT').model.eval()
    other = type(model)(model.config).eval()
    assert other.config is model.config
    banks = TapBank(model), TapBank(other)
    x = images()
    with banks[0].record(), banks[1].record():
        model(pixel_values=x), other(pixel_values=x)
    first, second = (bank.collect().attention for bank in banks)
    assert (first[0].q != second[0].q).any()
    banks[0].close()
    with pytest.raises(ZeroDivisionError), banks[1].record():
        raise ZeroDivisionError
    assert model.config._attn_implementation == 'sdpa'
    with banks[1].record():
        model(pixel_values=x), other(pixel_values=x)
    assert_close(banks[1].collect().attention[0].q, second[0].q)


def test_parts_of_a_config_keep_their_own_implementation():
    import transformers

    sizes = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48)
    config = transformers.SiglipConfig(
        text_config=dict(vocab_size=50, **sizes),
        vision_config=dict(image_size=32, patch_size=8, **sizes),
    )
    model = transformers.SiglipModel(config)
    model.config.text_config._attn_implementation = 'eager'
    bank = TapBank(model.vision_model)
    with bank.record():
        model.vision_model(pixel_values=images())
    assert model.config.text_config._attn_implementation == 'eager'
    assert model.config.vision_config._attn_implementation == 'sdpa'


def test_an_implementation_that_changed_after_the_taps_is_refused():
    model = hugging_face('ViT').model
    bank = TapBank(model)
    model.set_attn_implementation('eager')
    with pytest.raises(UnsupportedAttention, match='set_attn_implementation'), bank.record():
        model(pixel_values=images())
    assert model.config._attn_implementation == 'eager'


def test_a_bank_takes_an_anatomy_and_its_role():
    anatomy = Anatomy(timm_vit(), 'teacher')
    assert TapBank(anatomy).anatomy is anatomy
    with pytest.raises(Exception, match='layer 7 of the teacher'):
        TapBank(anatomy, layers=[7])


@pytest.mark.slow
def test_a_model_compiled_and_called_before_the_taps_says_what_to_do(dynamo):
    x = images()
    for in_place in (True, False):
        torch.compiler.reset()
        model = timm_vit(depth=1).eval()
        run = model
        if in_place:
            model.compile(backend='eager')
        else:
            run = torch.compile(model, backend='eager')
        run(x)
        bank = TapBank(model)
        with bank.record():
            run(x)
        state = 'it is compiled' if in_place else 'if the model is compiled'
        with pytest.raises(RuntimeError, match=rf'{state}.*torch\.compiler\.reset\(\)'):
            bank.collect()
        torch.compiler.reset()
        with bank.record():
            run(x)
        assert len(bank.collect().attention) == 1


def test_batches_in_second_place_are_not_read_as_tokens():
    model = encoder(batch_first=False)().model
    model.num_prefix_tokens = 0
    with pytest.raises(UnsupportedAttention, match='batch_first=False'):
        TapBank(model, layers=[], tokens=[1])
