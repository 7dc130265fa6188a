"""Small callables that stand for a transformer, and canvases to draw on."""

import torch


def toy_network(codes_in_book, positions):
    """predict(...) whose logits depend on all codes and the class, and on one row at a time."""
    generator = torch.Generator().manual_seed(codes_in_book * 100 + positions)
    table = torch.randn(codes_in_book + 1, positions, codes_in_book + 1, generator=generator)
    classes = torch.randn(6, positions, codes_in_book + 1, generator=generator)

    def predict(codes, labels, drop):
        rows = [
            classes[5 if dropped else label] + sum(table[code].roll(i, 0) for i, code in enumerate(row))
            for row, label, dropped in zip(
                codes.flatten(1).tolist(), labels.tolist(), drop.tolist(), strict=True
            )
        ]
        return torch.stack(rows)

    return predict


def blank(n, height, width, book):
    return torch.full((n, height, width), book), torch.zeros(n, dtype=torch.int64), torch.arange(n)
