"""Describe the settings of a training in plain words, by section: one half of the table of setting_words.py."""

from collections.abc import Mapping

_HOW = {
    "training.base_model": (
        "The model that learns",
        "It does not change: what is learned becomes a version beside it.",
    ),
    "training.method": (
        "Method",
        "qlora takes the least memory and suits nearly every case; full changes every number of the model.",
    ),
    "training.num_epochs": (
        "Passes over the data (epochs)",
        (
            "How many times the model reads everything. More passes learn it more thoroughly, too many learn it by "
            "heart; 3 is usual, 6 to 12 for little data."
        ),
    ),
    "training.learning_rate": (
        "Learning rate",
        (
            "How far each step changes the model. With too little nothing is learned, with too much the model forgets "
            "what it knew; 0.0002 is usual."
        ),
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
        (
            "The share of the addition that is left out at random in each step, against learning by heart. 0 (none) is "
            "usual."
        ),
    ),
    "training.use_dora": (
        "Learn size and direction apart (DoRA)",
        "Sometimes a little better, but slower and with more memory. Off is usual.",
    ),
    "training.use_rslora": (
        "Steadier weight for large additions (rsLoRA)",
        "Worth a try with a size of 64 or more. Off is usual.",
    ),
    "training.virtual_tokens": (
        "Learned words before each question",
        "How many, only for the methods prefix tuning and prompt tuning. 20 is usual.",
    ),
    "training.batch_size": (
        "Conversations in a step",
        "The model is changed once after this many conversations. More is steadier, with fewer steps; 4 is usual.",
    ),
    "training.batch_tokens": (
        "Computed at once, in tokens",
        "Less takes less memory and a little more time, and learns the same. 4096 is usual.",
    ),
    "training.early_stop": (
        "Stop early after passes without gain",
        (
            "The training ends after this many passes without an improvement on what is kept aside, and keeps the best "
            "one. 0: never; 2 is usual for little data."
        ),
    ),
    "training.folds": (
        "Trials to find the number of passes",
        (
            "The data is split into this many parts, and trained on once for each part, which is kept aside: this "
            "takes several times as long. It needs an early stop. 0: none."
        ),
    ),
    "training.warmup_ratio": (
        "Gentle beginning, as a share",
        "The first steps are smaller: 0.05 is the first 5 % of the training, which is usual.",
    ),
    "training.lr_scheduler": (
        "How the learning rate goes on",
        "linear or cosine: it falls to nothing by the end. constant: it stays the same. linear is usual.",
    ),
    "training.weight_decay": (
        "Pull back to small changes (weight decay)",
        "This can prevent learning by heart. 0 (none) is usual; 0.01 is a little.",
    ),
    "training.max_grad_norm": (
        "Largest change in a step",
        "Larger changes are cut down to it, so that no step breaks the model. 1 is usual.",
    ),
    "training.seed": (
        "Random seed for the order",
        "The same number trains in the same order every time. Any number will do.",
    ),
    "training.min_pairs": (
        "Questions that count as enough",
        "With fewer, gentler settings are used, or the training asks for confirmation. 100 is usual.",
    ),
    "training.save_steps": (
        "Steps between two saves",
        "A training that was stopped continues from the last save. 25 is usual.",
    ),
    "training.keep_checkpoints": ("Saves that are kept", "Older ones are removed. 2 is usual."),
    "training.base_weights": (
        "Form of the model during the training",
        "auto: as fast as the memory allows. quantised: a quarter of the memory, slower. nf4: for GPUs.",
    ),
    "training.optimizer": (
        "How changes are computed (optimiser)",
        "The two with 8bit take less memory, and need bitsandbytes. adamw is usual.",
    ),
    "training.dtype": (
        "Precision of the numbers",
        "bfloat16 takes half the memory on machines that support it. auto chooses.",
    ),
    "training.threads": ("Processor cores", "How many are used. 0: as many as prove fastest."),
    "training.products": (
        "Library that multiplies",
        "auto takes the one that is faster on this processor.",
    ),
    "training.backend": (
        "Program that trains",
        "packed: byoai's own, which is faster. trl: that of Hugging Face, for comparison.",
    ),
    "training.fused": ("Shortcuts in the arithmetic", "The same result, faster. On is usual."),
    "training.output_dir": ("Folder of the runs", "In the data folder. It can be changed in the file only."),
}

_KEPT = {
    "training.replay.share": (
        "Share of general questions",
        (
            "Mixed into what is learned, so that the model keeps what it knew. 0.3 is 30 %; with less it learns faster "
            "and forgets more."
        ),
    ),
    "training.replay.kl_weight": (
        "How closely it is held to general questions",
        "1 is usual; 0 does not hold it at all.",
    ),
}

_PREFERRED = {
    "training.preferences.method": (
        "How edits and thumbs are learned",
        "dpo: from edited answers. kto: from single thumbs, too. auto chooses by what is there; off: not at all.",
    ),
    "training.preferences.least": (
        "Fewest edits or thumbs that are learned",
        "With fewer they are left for later. 8 is usual.",
    ),
    "training.preferences.beta": (
        "How carefully edits and thumbs are learned",
        "A higher value stays closer to what the chats taught. 0.1 is usual.",
    ),
    "training.preferences.learning_rate": (
        "Learning rate for edits and thumbs",
        "How far each step changes the model here. 0.00005 is usual, less than for the chats.",
    ),
    "training.preferences.num_epochs": ("Passes over edits and thumbs", "How many times they are read. 2 is usual."),
}

_SEARCH = {
    "sweep.sampler": (
        "How settings are searched",
        "tpe: by what went well so far. grid: every combination, in random order.",
    ),
    "sweep.trials": (
        "Most trainings of a search",
        "Trainings of the same search in earlier runs and other processes count, too. 20 is usual.",
    ),
    "sweep.minutes": ("Most minutes of a search", "The search ends then, even in the middle of a training."),
    "sweep.seed": ("Random seed for the search", "The same number searches in the same order. Any number will do."),
    "sweep.learning_rate": ("Learning rates to try: lowest and highest", "Values between these two are tried."),
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
