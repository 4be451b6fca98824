"""Prefix and prompt tuning over a packed row: the virtual tokens come before the root of its tree, and every conversation sees them."""

from typing import Any

import torch
from peft import PeftModelForCausalLM, PeftType
from torch import Tensor


class VirtualTokenModel(PeftModelForCausalLM):
    """PEFT's model, which takes masks [batch, tokens] only, taught to take a packed row's [1, 1, T, T].

    With V virtual tokens the positions move by V, and the mask becomes [1, 1, T, V + T] where they are keys and values of each layer
    (prefix tuning), or [1, 1, V + T, V + T] where they are embeddings (prompt tuning).
    """

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        layout: Any = None,
        **kwargs: Any,
    ) -> Any:
        """The base model's output; `logits_to_keep` counts from the first real token. Of virtual tokens the mask knows, not `layout`."""
        if input_ids is None or position_ids is None or attention_mask is None or attention_mask.dim() != 4:
            return super().forward(input_ids, attention_mask, position_ids=position_ids, logits_to_keep=logits_to_keep, **kwargs)
        count, tokens = self.active_peft_config.num_virtual_tokens, input_ids.shape[1]
        positions = position_ids + count
        mask = torch.cat((attention_mask.new_ones(1, 1, tokens, count), attention_mask), dim=-1)
        if self.active_peft_config.peft_type == PeftType.PREFIX_TUNING:
            past = self.get_prompt(batch_size=1)
            return self.base_model(
                input_ids, attention_mask=mask, position_ids=positions, past_key_values=past, logits_to_keep=logits_to_keep, **kwargs
            )
        head = attention_mask.new_ones(1, 1, count, count + tokens).tril()
        return self.base_model(
            inputs_embeds=self._with_prompt(input_ids),
            attention_mask=torch.cat((head, mask), dim=-2),
            position_ids=torch.cat((torch.arange(count, device=positions.device)[None], positions), dim=-1),
            logits_to_keep=logits_to_keep + count if torch.is_tensor(logits_to_keep) else logits_to_keep,
            **kwargs,
        )

    def _with_prompt(self, input_ids: Tensor) -> Tensor:
        embedded = self.word_embeddings(input_ids)
        return torch.cat((self.get_prompt(batch_size=1).to(embedded.dtype), embedded), dim=1)
