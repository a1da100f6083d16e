"""Tiny random models as transformers itself makes and saves them, for the checks that have torch."""

import json
from pathlib import Path

from tiny_bert import HEADS, HIDDEN, LAYERS, PLACES, WIDE, write_bert


def write_with_torch(folder: Path, kind: str) -> Path:
    import torch
    from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, MPNetConfig, MPNetModel

    torch.manual_seed(0)
    write_bert(folder)
    words = json.loads((folder / "config.json").read_text())["vocab_size"]
    sizes = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": WIDE,
    }
    if kind == "bert":
        model = BertModel(BertConfig(vocab_size=words, max_position_embeddings=PLACES, **sizes))
    elif kind == "mpnet":
        model = MPNetModel(
            MPNetConfig(vocab_size=words, max_position_embeddings=PLACES + 2, pad_token_id=0, **sizes)
        )
    else:
        model = DistilBertModel(
            DistilBertConfig(
                vocab_size=words,
                max_position_embeddings=PLACES,
                dim=HIDDEN,
                n_layers=LAYERS,
                n_heads=HEADS,
                hidden_dim=WIDE,
            )
        )
    model.save_pretrained(folder)
    return folder
