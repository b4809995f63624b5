"""Teachers on devices of their own: everything goes there, and everything comes back."""

import copy

import pytest
import torch
from hosts.transformers.lm import Texts, gpt2, llama, trainer

from shd_vit.errors import ConfigError
from shd_vit.hosts.transformers import devices, teachers

LOSSES = dict(kd=True, cor=True, shd=dict(backend='torch'))
ONCE = dict(max_steps=1, per_device_train_batch_size=8)


def log_of(trained):
    return next(row for row in trained.state.log_history if 'loss' in row)


class Elsewhere:
    """A device that is none: what is moved there is only noted, and must be moved back."""

    def __init__(self, monkeypatch):
        self.device, self.there = torch.device('cuda', 7), []
        monkeypatch.setattr(devices, '_device', torch.device)
        monkeypatch.setattr(teachers, 'moved', self.moved)
        monkeypatch.setattr(teachers, '_place_of', lambda model: model.place)
        self.original = devices.moved

    def moved(self, value, device):
        if device == self.device:
            self.there += [name for name, x in value.items() if isinstance(x, torch.Tensor)]
            return value
        back = self.original(copy.copy(value), device)
        self.there.append(type(value).__name__)
        return back

    def teacher(self, *args, **kwargs):
        model = gpt2(*args, **kwargs)
        model.to = lambda device: setattr(model, 'place', device)
        return model


def test_batches_go_and_logits_and_taps_come_back(tmp_path, monkeypatch):
    elsewhere = Elsewhere(monkeypatch)
    teacher, here = elsewhere.teacher(), elsewhere.teacher(seed=5)
    made = trainer(
        tmp_path,
        teachers=[teacher, here],
        losses=LOSSES,
        teacher_devices=[elsewhere.device, 'cpu'],
        **ONCE,
    )
    assert (teacher.place, here.place) == (elsewhere.device, torch.device('cpu'))
    made.train()
    moves = elsewhere.there
    assert moves[:2] == ['input_ids', 'attention_mask']
    assert moves.count('Tensor') == 2  # logits
    layers = len(made.distillation.teacher.bank.layers)
    assert moves.count('ModelOutput') == layers + 1 > 1  # its maps as they come, and the rest
    assert moves[2] == moves[-1] == 'ModelOutput'


def test_every_tensor_of_an_output_is_moved():
    made = teachers.ModelOutput(torch.ones(1), {1: [torch.ones(2), 0.5, None]}, {'final': ()})
    seen = []

    class Noted(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            seen.append(func.__name__)
            return super().__torch_function__(func, types, args, kwargs or {})

    noted = made._replace(
        logits=made.logits.as_subclass(Noted), attention={1: [torch.ones(2).as_subclass(Noted)]}
    )
    back = devices.moved(noted, torch.device('cpu'))
    assert seen.count('to') == 2 and type(back) is teachers.ModelOutput
    assert devices.moved(made, torch.device('cpu')).attention[1][1:] == [0.5, None]


@pytest.mark.parametrize(
    'given, message',
    [
        ('nowhere', "teacher_devices='nowhere' is no device here"),
        (['cpu', 'cpu'], 'teacher_devices has 2 entries, teachers 1'),
        (1.5, 'teacher_devices=1.5 is no device here'),
    ],
)
def test_devices_are_refused(tmp_path, given, message):
    with pytest.raises(ConfigError, match=message) as caught:
        trainer(tmp_path, teacher_devices=given)
    assert '\n' not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs two devices')
def test_a_teacher_on_a_gpu_gives_a_student_on_a_cpu_the_same_terms(tmp_path):
    logs = []
    for device in ('cpu', 'cuda:0'):
        made = trainer(
            tmp_path,
            student=llama(),
            teachers=gpt2(),
            texts=Texts(padding='left'),
            losses=LOSSES,
            teacher_devices=device,
            **ONCE,
        )
        assert next(made.distillation.teacher.model.parameters()).device == torch.device(device)
        made.train()
        logs.append(log_of(made))
    for name in ('kd', 'cor', 'shd'):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-3), name
