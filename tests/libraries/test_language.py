"""Text and sound."""

import copy
import pickle

import torch
from small_models import assert_near, converted, rnns


def test_flair(library):
    flair = library("flair")
    from flair.data import Dictionary, Sentence
    from flair.embeddings import OneHotEmbeddings
    from flair.models import SequenceTagger

    flair.device = torch.device("cpu")
    words, tags = Dictionary(), Dictionary()
    for word in "abc":
        words.add_item(word)
    for tag in ("<unk>", "X", "Y"):
        tags.add_item(tag)
    embeddings = OneHotEmbeddings(words, embedding_length=6)
    tagger = SequenceTagger(embeddings, tags, "pos", hidden_size=8, use_rnn=True, use_crf=False)
    sentences = [Sentence("a b c"), Sentence("b a")]
    for sentence in sentences:
        for number, token in enumerate(sentence):
            token.add_label("pos", "XY"[number % 2])
    tagger.eval()
    expected, _ = tagger.forward_loss(sentences)
    assert rnns(converted(tagger)[0]) == {"fastrnn.LSTM"}
    for model in (tagger, copy.deepcopy(tagger), pickle.loads(pickle.dumps(tagger))):
        loss, _ = model.forward_loss(sentences)
        assert_near(loss, expected)
    loss.backward()


def test_transformers(library):
    """EnCodec is a model of theirs that has an LSTM."""
    transformers = library("transformers")
    config = transformers.EncodecConfig(
        num_filters=4, hidden_size=16, codebook_size=16, codebook_dim=16, num_residual_layers=1,
        upsampling_ratios=[4, 2],
    )  # fmt: skip
    model, sound = transformers.EncodecModel(config).eval(), torch.randn(1, 1, 400)
    expected = model(sound).audio_values
    assert rnns(converted(model)[0]) == {"fastrnn.LSTM"}
    assert_near(model(sound).audio_values, expected)
    model.train()
    model(sound).audio_values.sum().backward()
