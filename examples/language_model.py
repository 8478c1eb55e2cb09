"""Train a small transformer to write like Python's own reference, letter by letter.

    python examples/language_model.py
    callboard fit examples/language_model.py --epochs 1
    torchrun --nproc-per-node 4 -m callboard fit examples/language_model.py --epochs 1 \
        --with distributed:strategy=ddp

The text is what ``help("topics")`` lists, about 465,000 letters that every Python has:
a quarter of a minute an epoch. Four processes, by DDP or by FSDP2 (``strategy=fsdp2``),
each take a part of every batch and have the losses of one. There is no dropout, since
each process would draw its own.
"""

import pydoc_data.topics

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from callboard import Callback, DataLoaders, Learner


class Letters:
    """The letters of a text, and the number of each.

    Attributes:
        known: Every letter that there is, in order.
    """

    def __init__(self, text: str) -> None:
        self.known = sorted(set(text))
        self._numbers = {letter: number for number, letter in enumerate(self.known)}

    def encode(self, text: str) -> Tensor:
        """The numbers of a text's letters."""
        return torch.tensor([self._numbers[letter] for letter in text])

    def decode(self, numbers: Tensor) -> str:
        """The text that numbers stand for."""
        return "".join(self.known[number] for number in numbers.tolist())


class Passages(Dataset[tuple[Tensor, Tensor]]):
    """Passages of a text, none over another, each with what follows every letter."""

    def __init__(self, numbers: Tensor, length: int) -> None:
        self.numbers = numbers
        self.length = length

    def __len__(self) -> int:
        return (len(self.numbers) - 1) // self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        begin = index * self.length
        passage = self.numbers[begin : begin + self.length + 1]
        return passage[:-1], passage[1:]


class Block(nn.Module):
    """Attention to what came before, and a perceptron for each position."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.inward = nn.Linear(width, 3 * width, bias=False)
        self.outward = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        heads = self.inward(self.norm(x)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True
        )
        x = x + self.outward(seen.transpose(1, 2).flatten(2))
        return x + self.perceptron(x)


class Transformer(nn.Module):
    """Foretells the next letter at every position (Vaswani et al. 2017).

    What it returns are logarithms: passages x positions x how likely each letter is.
    """

    def __init__(
        self, num_letters: int, *, width: int, num_blocks: int, length: int
    ) -> None:
        super().__init__()
        self.length = length
        self.letters = nn.Embedding(num_letters, width)
        self.positions = nn.Parameter(torch.randn(length, width) / 50)
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(num_blocks)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_letters))

    def forward(self, numbers: Tensor) -> Tensor:
        x = self.letters(numbers) + self.positions[: numbers.shape[1]]
        return self.head(self.blocks(x)).log_softmax(-1)


class WriteSample(Callback):
    """Lets the model write when it is trained; the main process prints it.

    All processes take part, since with FSDP2 each has a share of the model alone.
    """

    role = "observe"
    ranks = "all"

    def __init__(self, letters: Letters, num_letters: int) -> None:
        self.letters = letters
        self.num_letters = num_letters

    def after_fit(self) -> None:
        if not self.num_letters:
            return
        begin = self.letters.encode("The ").to(self.device)
        numbers = continued(self.learn.model, begin, self.num_letters)
        if self.is_main:
            print(f"\n{self.letters.decode(numbers)}\n")


@torch.no_grad()
def continued(model: nn.Module, numbers: Tensor, num_letters: int) -> Tensor:
    """A text with so many letters more, drawn one by one as the model expects them."""
    draw = torch.Generator(numbers.device).manual_seed(0)
    for _ in range(num_letters):
        likely = model(numbers[None, -model.length :])[0, -1].exp()
        drawn = torch.multinomial(likely, 1, generator=draw)
        numbers = torch.cat([numbers, drawn])
    return numbers


def loss_of_letters(log_likely: Tensor, letters: Tensor) -> Tensor:
    """Cross entropy, a mean over all positions of all passages."""
    return functional.nll_loss(log_likely.flatten(0, 1), letters.flatten())


def reference() -> str:
    """Python's reference, as ``help()`` shows it."""
    topics = pydoc_data.topics.topics
    return "\n\n".join(topics[name] for name in sorted(topics))


def learner(
    width: int = 96,
    num_blocks: int = 3,
    length: int = 64,
    batch_size: int = 16,
    max_letters: int = 1_000_000,
    sample: int = 200,
    seed: int = 0,
    path: str = "runs/language-model",
) -> Learner:
    """Everything that is trained together.

    Args:
        width: Numbers that stand for a letter inside the model; a multiple of 4.
        num_blocks: How many blocks of attention and perceptron.
        length: Letters of a passage, which is as far as the model looks back.
        batch_size: Passages of a batch, of all processes together.
        max_letters: Letters of the text that are used at most; a tenth validates.
        sample: Letters that are written in the end.
        seed: What every random number of the run derives from.
        path: Folder for what plugins write.
    """
    text = reference()[:max_letters]
    letters = Letters(text)
    numbers = letters.encode(text)
    num_train = len(numbers) * 9 // 10
    train = Passages(numbers[:num_train], length)
    valid = Passages(numbers[num_train:], length)
    torch.manual_seed(seed)
    model = Transformer(
        len(letters.known), width=width, num_blocks=num_blocks, length=length
    )
    return Learner(
        DataLoaders(
            DataLoader(train, batch_size, shuffle=True), DataLoader(valid, batch_size)
        ),
        model,
        loss_of_letters,
        torch.optim.AdamW,
        lr=3e-3,
        cbs=[WriteSample(letters, sample)],
        path=path,
        seed=seed,
    )


def main() -> None:
    learn = learner()
    print(learn.cbs, end="\n\n")
    learn.fit(1)


if __name__ == "__main__":
    main()
