"""Describe the settings of a training in plain words, by section: one half of the table of setting_words.py."""

from collections.abc import Mapping

_HOW = {
    "training.base_model": (
        "The model that learns",
        "It stays as it is: what is learned becomes a version beside it.",
    ),
    "training.method": (
        "Method",
        "qlora takes the least memory and suits nearly all; full changes every number of the model.",
    ),
    "training.num_epochs": (
        "Passes over the data (epochs)",
        "How often everything is read. More learns it more surely, and too many by heart; 3 is usual, 6 to 12 for "
        "little data.",
    ),
    "training.learning_rate": (
        "Learning rate",
        "How far each step changes the model. Too little learns nothing, too much forgets what it knew; 0.0002 is "
        "usual.",
    ),
    "training.lora_r": (
        "Size of what is added (rank)",
        "How much the addition to the model can hold. 8 to 32 is usual; more takes more memory.",
    ),
    "training.lora_alpha": (
        "Weight of what is added (alpha)",
        "How strongly the addition counts beside the model. Twice its size is usual.",
    ),
    "training.lora_dropout": (
        "Left out at random (dropout)",
        "The share of the addition that pauses in each step, against learning by heart. 0 is none, and usual.",
    ),
    "training.use_dora": (
        "Learn size and direction apart (DoRA)",
        "Sometimes a little better, and slower, with more memory. Off is usual.",
    ),
    "training.use_rslora": (
        "Steadier weight for large additions (rsLoRA)",
        "Worth a try from a size of 64 on. Off is usual.",
    ),
    "training.virtual_tokens": (
        "Learned words before each question",
        "Only for the methods prefix tuning and prompt tuning: how many. 20 is usual.",
    ),
    "training.batch_size": (
        "Conversations in a step",
        "The model is changed after so many. More is steadier, with fewer steps; 4 is usual.",
    ),
    "training.batch_tokens": (
        "Computed at once, in tokens",
        "Less takes less memory and a little more time, and learns the same. 4096 is usual.",
    ),
    "training.early_stop": (
        "Stop early after passes without gain",
        "It ends when so many passes made it no better on what is kept aside, and keeps the best. 0: never; 2 is "
        "usual for little data.",
    ),
    "training.folds": (
        "Trials to find the number of passes",
        "The data is cut into so many parts, each kept aside once: several times the time. It needs an early stop. "
        "0: none.",
    ),
    "training.warmup_ratio": (
        "Gentle beginning, as a share",
        "The first steps are smaller: 0.05 is the first 5 % of the training, and usual.",
    ),
    "training.lr_scheduler": (
        "How the learning rate goes on",
        "linear or cosine: down to nothing by the end. constant: as it is. linear is usual.",
    ),
    "training.weight_decay": (
        "Pull back to small changes (weight decay)",
        "It can keep from learning by heart. 0 is none, and usual; 0.01 is a little.",
    ),
    "training.max_grad_norm": (
        "Largest change in a step",
        "Larger ones are cut down to it, so that no step breaks the model. 1 is usual.",
    ),
    "training.seed": (
        "Chance in the order",
        "The same number trains in the same order every time. Any number will do.",
    ),
    "training.min_pairs": (
        "Questions that count as enough",
        "With fewer, gentler settings are taken, or the training asks whether you mean it. 100 is usual.",
    ),
    "training.save_steps": (
        "Steps between two saves",
        "A training that is stopped goes on from the last one. 25 is usual.",
    ),
    "training.keep_checkpoints": ("Saves that are kept", "Older ones are removed. 2 is usual."),
    "training.base_weights": (
        "How the model is held meanwhile",
        "auto: as fast as the memory allows. quantised: a quarter of the memory, slower. nf4: for GPUs.",
    ),
    "training.optimizer": (
        "How changes are reckoned (optimiser)",
        "The two with 8bit take less memory, and need bitsandbytes. adamw is usual.",
    ),
    "training.dtype": (
        "Exactness of the numbers",
        "bfloat16 takes half the memory where the machine can do it. auto chooses.",
    ),
    "training.threads": ("Processor cores", "That train. 0: as many as prove fastest."),
    "training.products": (
        "Library that multiplies",
        "auto takes the one that proves faster on this processor.",
    ),
    "training.backend": (
        "Program that trains",
        "packed is faster; trl is the one by Hugging Face, to compare with.",
    ),
    "training.fused": ("Shortcuts in the arithmetic", "The same result, faster. On is usual."),
    "training.output_dir": ("Folder of the runs", "In the data folder. It can be changed in the file only."),
}

_KEPT = {
    "training.replay.share": (
        "Share of general questions",
        "Mixed into what is learned, so that the model keeps what it knew. 0.3 is 30 %; less learns faster, and "
        "forgets more.",
    ),
    "training.replay.kl_weight": (
        "How closely it is held to general questions",
        "1 is usual; 0 does not hold it at all.",
    ),
}

_PREFERRED = {
    "training.preferences.method": (
        "How edits and thumbs are learned",
        "dpo: from edited answers. kto: from single thumbs, too. auto chooses by what there is; off: not at all.",
    ),
    "training.preferences.least": (
        "Fewest edits or thumbs that are learned",
        "With fewer they are left for later. 8 is usual.",
    ),
    "training.preferences.beta": (
        "How carefully edits and thumbs are learned",
        "Higher stays closer to what the chats taught. 0.1 is usual.",
    ),
    "training.preferences.learning_rate": (
        "Learning rate for edits and thumbs",
        "How far each step changes the model here. 0.00005 is usual, less than for the chats.",
    ),
    "training.preferences.num_epochs": ("Passes over edits and thumbs", "How often they are read. 2 is usual."),
}

_SEARCH = {
    "sweep.sampler": (
        "How settings are searched",
        "tpe: by what did well so far. grid: every combination, in random order.",
    ),
    "sweep.trials": ("Most trainings of a search", "All that go on with the same search count. 20 is usual."),
    "sweep.minutes": ("Most minutes of a search", "It ends then, also in the middle of a training."),
    "sweep.seed": ("Chance in a search", "The same number searches in the same order. Any will do."),
    "sweep.learning_rate": ("Learning rates to try: lowest and highest", "What lies between them is tried."),
    "sweep.lora_r": ("Sizes of what is added to try", "One value only: it is not searched for."),
    "sweep.lora_alpha": ("Weights of what is added to try", "One value only: it is not searched for."),
    "sweep.lora_dropout": ("Shares left out at random to try", "One value only: it is not searched for."),
    "sweep.num_epochs": ("Passes over the data to try", "One value only: it is not searched for."),
    "sweep.batch_size": ("Conversations in a step to try", "One value only: it is not searched for."),
}

TRAINING: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "How it learns": _HOW,
    "What must stay": _KEPT,
    "Edits and thumbs": _PREFERRED,
    "Search for better settings": _SEARCH,
}
