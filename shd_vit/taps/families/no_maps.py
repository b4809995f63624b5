"""Attention of timm that has no maps of tokens by tokens before its values, and why."""

from __future__ import annotations

from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily

_ONE_QUERY = 'the class token alone is a query: its map is 1 x N'
_CHANNELS = 'its maps are between channels, not tokens (cross-covariance)'
_FEWER_KEYS = 'its keys are pooled: there are fewer than queries'
_LINEAR = 'linear attention: there is no softmax of products of queries and keys'
_BENT = 'an activation between attention and its output projection'
_TWO = 'its map is a difference of two softmaxes'
_REASONS = {
    'cait.ClassAttn': _ONE_QUERY,
    'cait.TalkingHeadAttn': 'its maps are mixed between heads after the softmax (talking heads)',
    'convit.GPSA': 'its map is a mixture of two softmaxes, of content and of positions',
    'crossvit.CrossAttention': _ONE_QUERY,
    'davit.ChannelAttention': _CHANNELS,
    'davit.ChannelAttentionV2': _CHANNELS,
    'edgenext.CrossCovarianceAttn': _CHANNELS,
    'efficientvit_mit.LiteMLA': _LINEAR,
    'efficientvit_msra.CascadedGroupAttention': _BENT,
    'levit.Attention': _BENT,
    'levit.AttentionDownsample': 'its queries are fewer than its keys (downsampling)',
    'mobilevit.LinearSelfAttention': _LINEAR,
    'mvitv2.MultiScaleAttention': _FEWER_KEYS,
    'mvitv2.MultiScaleAttentionPoolFirst': _FEWER_KEYS,
    'pvt_v2.Attention': _FEWER_KEYS,
    'twins.GlobalSubSampleAttn': _FEWER_KEYS,
    'vision_transformer.DiffParallelScalingBlock': _TWO,
    'volo.OutlookAttention': 'its weights are predicted, without keys (outlook attention)',
    'xcit.XCA': _CHANNELS,
}
REASONS = {f'timm.models.{path}': reason for path, reason in _REASONS.items()}
REASONS['timm.layers.diff_attention.DiffAttention'] = _TWO


@ATTENTION_TAPS.register(*REASONS)
class NoMaps(AttentionFamily):
    """Refused by name."""

    def refusal(self, attn):
        paths = (f'{cls.__module__}.{cls.__qualname__}' for cls in type(attn).__mro__)
        return next(REASONS[path] for path in paths if path in REASONS)
