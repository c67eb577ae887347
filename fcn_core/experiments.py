"""Every named run, one function each.

A docstring promises the command, its time and its score; `docs/lab.md` has date, hardware and details.
A stride other than 8 comes from the job: `jobs/train_fcn32s.py streets` is that run with stride 32.
"""

from collections.abc import Callable

from fcn_core.settings import Data, Loss, Model, Optim, Run, Streets, override


def streets() -> Run:
    """Built-in street scenes, a narrow VGG16 from scratch; 2 min 20 s on two CPU cores, mean IoU 54.7 % ± 0.4.

    python jobs/train_fcn8s.py streets --workers 2
    """
    return Run(
        name="streets",
        data=Data(kind="streets", flip=True, streets=Streets()),
        model=Model(trunk="vgg16_bn", width=0.25, fc_channels=256, dropout=0.1),
        optim=Optim(method="adamw", learning_rate=2e-3, weight_decay=1e-2, warmup_steps=10, epochs=12, batch_size=8),
    )


def camvid() -> Run:
    """CamVid at its own size, VGG16 with BatchNorm from scratch; for a GPU. Not measured yet.

    python jobs/train_fcn8s.py camvid --data PATH            (add --model.weights imagenet to start from ImageNet)
    """
    return Run(
        name="camvid",
        data=Data(kind="camvid", path="camvid", crop=(360, 480), zoom=(0.75, 1.5), colour=0.5),
        model=Model(trunk="vgg16_bn"),
        loss=Loss(dice=0.5),
        optim=Optim(learning_rate=0.02, warmup_steps=100, clip_norm=10.0, epochs=300, batch_size=8),
    )


def camvid_half() -> Run:
    """CamVid at half resolution, ResNet-18 from scratch; 22 min on two CPU cores, mean IoU 56.6 % on val.

    python jobs/train_fcn8s.py camvid_half --data PATH --workers 2
    """
    base = camvid()
    return override(
        base,
        {
            "name": "camvid_half",
            "data.scale": 0.5,
            "data.crop": (160, 224),
            "model": Model(trunk="resnet18", dropout=0.1),
            "optim": Optim(
                method="adamw", learning_rate=1e-3, weight_decay=1e-2, warmup_steps=20, epochs=30, batch_size=8
            ),
        },
    )


def voc() -> Run:
    """Pascal VOC 2012, VGG16 from ImageNet. Not measured yet.

    The recipe of Long, Shelhamer and Darrell (CVPR 2015): SGD, learning rate 1e-4, batches of 20.

    python jobs/train_fcn8s.py voc --data PATH
    """
    return Run(
        name="voc",
        data=Data(kind="voc", path="voc", crop=(512, 512)),
        model=Model(trunk="vgg16", weights="imagenet"),
        optim=Optim(learning_rate=1e-4, weight_decay=5e-4, schedule="fixed", epochs=100, batch_size=20),
    )


def sbd() -> Run:
    """The Semantic Boundaries Dataset (8498 training images), otherwise as `voc`. Not measured yet.

    python jobs/train_fcn8s.py sbd --data PATH
    """
    return override(voc(), {"name": "sbd", "data.kind": "sbd", "data.path": "sbd"})


def folder() -> Run:
    """Your own images/ and masks/ with a classes.json, ResNet-18 from scratch.

    python jobs/train_fcn8s.py folder --data PATH
    """
    return Run(
        name="folder",
        data=Data(kind="folder", path="folder", crop=(320, 320), zoom=(0.75, 1.5), colour=0.5),
        model=Model(trunk="resnet18", dropout=0.1),
        optim=Optim(method="adamw", learning_rate=1e-3, weight_decay=1e-2, warmup_steps=100, epochs=50, batch_size=8),
    )


EXPERIMENTS: dict[str, Callable[[], Run]] = {
    "streets": streets,
    "camvid": camvid,
    "camvid_half": camvid_half,
    "voc": voc,
    "sbd": sbd,
    "folder": folder,
}
