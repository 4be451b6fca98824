"""Extend PEFT's prefix and prompt tuning to packed rows (packing.py).

Both methods train virtual tokens. These are placed before the root of the row's prefix tree, and
every conversation attends to them.
"""

import torch
from peft import PeftModelForCausalLM, PeftType
from torch import Tensor
from transformers.utils.generic import ModelOutput

from fine_tuning.training.fast.tree_attention import Layout


class VirtualTokenModel(PeftModelForCausalLM):
    """PEFT's model, extended to accept a packed row's mask [1, 1, T, T]; PEFT accepts only [batch, tokens].

    V virtual tokens shift all positions by V. The mask becomes [1, 1, T, V + T] for prefix tuning,
    where they are keys and values of each layer, and [1, 1, V + T, V + T] for prompt tuning, where
    they are embeddings.
    """

    def forward(  # type: ignore[override]  # PEFT's has arguments that no caller here gives
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        layout: Layout | None = None,
        **kwargs: object,
    ) -> ModelOutput:
        """Return the base model's output. `logits_to_keep` counts from the first real token.

        `layout` is ignored, since it does not include the virtual tokens; the mask does.
        """
        if input_ids is None or position_ids is None or attention_mask is None or attention_mask.dim() != 4:
            output: ModelOutput = super().forward(  # type: ignore[no-untyped-call]
                input_ids, attention_mask, position_ids=position_ids, logits_to_keep=logits_to_keep, **kwargs
            )
            return output
        count, tokens = self.active_peft_config.num_virtual_tokens, input_ids.shape[1]
        positions = position_ids + count
        mask = torch.cat((attention_mask.new_ones(1, 1, tokens, count), attention_mask), dim=-1)
        if self.active_peft_config.peft_type == PeftType.PREFIX_TUNING:
            past = self.get_prompt(batch_size=1)
            output = self.base_model(
                input_ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=past,
                logits_to_keep=logits_to_keep,
                **kwargs,
            )
            return output
        head = attention_mask.new_ones(1, 1, count, count + tokens).tril()
        output = self.base_model(
            inputs_embeds=self._with_prompt(input_ids),
            attention_mask=torch.cat((head, mask), dim=-2),
            position_ids=torch.cat((torch.arange(count, device=positions.device)[None], positions), dim=-1),
            logits_to_keep=logits_to_keep + count if torch.is_tensor(logits_to_keep) else logits_to_keep,
            **kwargs,
        )
        return output

    def _with_prompt(self, input_ids: Tensor) -> Tensor:
        embedded: Tensor = self.word_embeddings(input_ids)  # type: ignore[misc]  # set by PEFT for these methods
        return torch.cat((self.get_prompt(batch_size=1).to(embedded.dtype), embedded), dim=1)
