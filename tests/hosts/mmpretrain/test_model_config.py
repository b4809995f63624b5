import pytest
from mmengine.config import Config
from models import distiller_config, mmpretrain_classifier

from shd_vit.hosts.mmpretrain.model_config import plain_classifier

OWN, TOP, STUDENT = (dict(mean=[mean], std=[1.0]) for mean in (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    'own, top, student, expected',
    [
        (OWN, TOP, STUDENT, OWN),
        (None, TOP, STUDENT, TOP),
        (None, None, STUDENT, STUDENT),
        (None, None, None, None),
    ],
)
def test_the_student_alone_is_normalised_as_it_was_trained(own, top, student, expected):
    """The model's own preprocessor wins over the config's, as in mmengine's runner."""
    classifier = mmpretrain_classifier(3, **({'data_preprocessor': student} if student else {}))
    model = distiller_config(classifier, **({'data_preprocessor': own} if own else {}))
    cfg = plain_classifier(Config(dict(model=model, **({'data_preprocessor': top} if top else {}))))
    assert cfg.data_preprocessor == expected
    assert cfg.model.type == 'ImageClassifier'


def test_a_plain_config_is_left_alone():
    cfg = Config(dict(model=mmpretrain_classifier(3)))
    assert plain_classifier(cfg) is cfg
