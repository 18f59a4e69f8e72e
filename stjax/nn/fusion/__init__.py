"""Fusion of modalities: what behaviour, time, space and context say of one event, as one vector."""

from stjax.nn.fusion.attention import AttentionFusion
from stjax.nn.fusion.concat import ConcatFusion
from stjax.nn.fusion.convolution import ConvolutionFusion
from stjax.nn.fusion.gated import GatedFusion
from stjax.nn.fusion.hyper import HyperFusion

__all__ = ["AttentionFusion", "ConcatFusion", "ConvolutionFusion", "GatedFusion", "HyperFusion"]
