"""What trains models for transformers trains these: checkpointing, Trainer, PEFT, TRL, label heads."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from minicpm import load, load_decoder
from minicpm.hf import MiniCPMDecoderForSequenceClassification

# Training tools call one another's deprecated names.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")

ONE = "minicpm4-8b"


def step(model, tokens):
    """One step of plain gradient descent on `tokens`; the loss before it."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_computes_blocks_twice_and_the_same_gradients(fresh, family, ids, reentrant):
    plain, saving, tokens = fresh(family).train(), fresh(family).train(), ids(2, 33)
    saving.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert saving.is_gradient_checkpointing
    counted = []
    for model in (plain, saving):
        before = len(counted)
        attention = model.model.layers[0].self_attn
        attention.register_forward_hook(lambda *_: counted.append(1))
        model(tokens, labels=tokens).loss.backward()
        assert len(counted) - before == (2 if model is saving else 1)
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(dict(saving.named_parameters())[name].grad, weight.grad)
    saving.gradient_checkpointing_disable()
    assert not saving.is_gradient_checkpointing


def test_trainer_trains_and_saves(fresh, ids, tmp_path):
    pytest.importorskip("accelerate", reason="Trainer needs it; pip install 'minicpm[train]'")
    model, tokens = fresh(ONE), ids(4, 20)
    examples = [{"input_ids": row, "labels": row} for row in tokens]
    arguments = TrainingArguments(
        output_dir=tmp_path / "runs",
        max_steps=3,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        gradient_checkpointing=True,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        logging_steps=1,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=examples, eval_dataset=examples)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    trainer.save_model(tmp_path / "trained")
    decoder = load_decoder(tmp_path / "trained", prepare=False)
    for name, weight in decoder.named_parameters():
        assert torch.equal(weight, dict(model.named_parameters())[name])


@pytest.fixture
def adapted(fresh):
    """adapted(family) -> its toy model with a LoRA on every projection, as PEFT makes it."""
    peft = pytest.importorskip("peft", reason="adapters need it; pip install 'minicpm[train]'")

    def make(family: str):
        torch.manual_seed(0)
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        return peft.get_peft_model(fresh(family), config)

    return make


def test_peft_trains_its_adapters_alone(adapted, opened, family, ids):
    """Every projection takes part: gradients reach all of PEFT's weights, and nothing else changes."""
    model, tokens = adapted(family).train(), ids(2, 33)
    base = dict(opened(family).named_parameters())
    adapters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert adapters
    assert all("lora_" in name for name in adapters)
    assert {name.rsplit(".lora_")[0] + ".base_layer.weight" for name in adapters} == {
        name for name, _ in model.named_parameters() if name.endswith("base_layer.weight")
    }
    with torch.no_grad():
        for name, weight in adapters.items():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    first = step(model, tokens)
    assert all(p.grad is not None and p.grad.any() for p in adapters.values())
    assert step(model, tokens) < first
    for name, weight in model.get_base_model().named_parameters():
        if "lora_" not in name:
            assert torch.equal(weight, base[name.replace(".base_layer", "")])


def test_a_merged_adapter_is_a_plain_model(adapted, family, ids, tmp_path, assert_near):
    model, tokens = adapted(family).train(), ids(2, 33)
    step(model, tokens)
    step(model, tokens)
    model.eval()
    with torch.no_grad():
        before = model(tokens).logits
        merged = model.merge_and_unload()
        assert_near(merged(tokens).logits, before)
        merged.save_pretrained(tmp_path)
        decoder = load_decoder(tmp_path, prepare=False)
        assert_near(torch.stack([decoder.logits_for(row) for row in tokens]), before)


def test_an_adapter_on_the_head_takes_part(fresh, ids):
    peft = pytest.importorskip("peft", reason="adapters need it; pip install 'minicpm[train]'")
    model = peft.get_peft_model(fresh(ONE), peft.LoraConfig(r=2, target_modules=["lm_head"]))
    step(model.train(), ids(1, 9))
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert len(grads) == 2
    assert next(grad for name, grad in grads.items() if "lora_B" in name).any()


def test_an_adapted_model_generates_with_its_cache(adapted, ids):
    model, prompt = adapted(ONE), ids(2, 20)
    step(model.train(), prompt)
    settings = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 3}
    model.eval()
    cached = model.generate(input_ids=prompt, **settings)
    assert torch.equal(cached, model.generate(input_ids=prompt, use_cache=False, **settings))


def test_an_adapter_that_peft_saved_speaks_the_same_in_the_engine(adapted, folder, ids, tmp_path):
    model, prompt = adapted(ONE), ids(2, 20)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    model.eval().save_pretrained(tmp_path)
    settings = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 3}
    theirs = model.generate(input_ids=prompt, **settings)[:, prompt.shape[1] :].tolist()
    engine = load(folder(ONE), adapters={"tuned": tmp_path})
    options = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
    ours = engine.generate(prompt.tolist(), adapter="tuned", **options)
    assert [list(completion.token_ids) for completion in ours] == theirs
    plain = engine.generate(prompt.tolist(), **options)
    assert [list(completion.token_ids) for completion in plain] != theirs


@pytest.mark.filterwarnings("ignore")  # of the many packages it brings
def test_trl_tunes_on_conversations(fresh, folder, tmp_path):
    pytest.importorskip("trl", reason="supervised tuning needs it; pip install 'minicpm[train]'")
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder(ONE))
    tokenizer.pad_token = "</s>"
    texts = Dataset.from_list([{"text": "hello the 你好 123"}, {"text": "hello"}] * 2)
    arguments = SFTConfig(
        output_dir=tmp_path,
        max_steps=2,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    trainer = SFTTrainer(model=fresh(ONE), args=arguments, train_dataset=texts, processing_class=tokenizer)
    assert trainer.train().training_loss > 0


def test_a_label_head_trains_and_reopens_as_itself(folder, family, ids, padded, tmp_path):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder(family), num_labels=3, pad_token_id=3)
    assert isinstance(model, MiniCPMDecoderForSequenceClassification)
    rows = [ids(1, count, seed=count)[0] for count in (5, 40)]
    tokens, mask = padded(rows, "right")
    labels = torch.tensor([0, 2])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        out = model.train()(tokens, attention_mask=mask, labels=labels)
        assert out.logits.shape == (2, 3)
        losses.append(out.loss.item())
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        together = again(tokens, attention_mask=mask).logits
        torch.testing.assert_close(together, model(tokens, attention_mask=mask).logits)
        left, real = padded(rows, "left")
        torch.testing.assert_close(again(left, attention_mask=real).logits, together)
