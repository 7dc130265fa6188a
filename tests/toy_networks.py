"""Small callables in the role of a transformer, and masked grids for them."""

import torch


def toy_network(codebook_size, positions):
    """predict(...) whose logits depend on all tokens and the class, and on one row at a time."""
    generator = torch.Generator().manual_seed(codebook_size * 100 + positions)
    table = torch.randn(codebook_size + 1, positions, codebook_size + 1, generator=generator)
    classes = torch.randn(6, positions, codebook_size + 1, generator=generator)

    def predict(tokens, labels, drop):
        rows = [
            classes[5 if dropped else label] + sum(table[token].roll(i, 0) for i, token in enumerate(row))
            for row, label, dropped in zip(
                tokens.flatten(1).tolist(), labels.tolist(), drop.tolist(), strict=True
            )
        ]
        return torch.stack(rows)

    return predict


def blank(n, height, width, mask_token):
    """Fully masked grids, labels of 0, and indices from 0."""
    return torch.full((n, height, width), mask_token), torch.zeros(n, dtype=torch.int64), torch.arange(n)
