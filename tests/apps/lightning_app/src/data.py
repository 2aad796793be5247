import lightning.pytorch as L
import torch
from torch.utils.data import DataLoader, TensorDataset, random_split


class WavesDataModule(L.LightningDataModule):
    def __init__(self, samples: int, batch_size: int) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)

    def setup(self, stage: str) -> None:
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(self.hparams["samples"], 8, generator=draw)
        y = (x.sin().sum(1) > 0).long()
        self.train, self.val = random_split(TensorDataset(x, y), [0.75, 0.25], generator=draw)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.hparams["batch_size"], shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, len(self.val))
