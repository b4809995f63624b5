"""Pre-train or distil a language model, as a YAML file says.

python tools/lm_train.py configs/lm/small/gpt2_teacher.yaml
python tools/lm_train.py configs/lm/small/kd_shd_gpt2.yaml losses.shd.beta=2 arguments.seed=1
python tools/lm_train.py CONFIG.yaml --resume          # from the last checkpoint, if there is one
torchrun --nproc_per_node 8 tools/lm_train.py CONFIG.yaml
accelerate launch tools/lm_train.py CONFIG.yaml

  base: other.yaml                   # what is not said here; null leaves out what it has
  model: {type: LlamaConfig, hidden_size: 512, ...}      # or a path
  teachers: [work_dirs/lm/gpt2, work_dirs/lm/llama]
  text: {folder: data/text, length: 128, random_offset: true}
  trainer: Trainer                   # or SFTTrainer, GKDTrainer, ... with instructions
  losses: {kd: {temperature: 2.0, reduction: sequences}, shd: {beta: 1.0}}
  arguments: {output_dir: work_dirs/lm/student, learning_rate: 2.5e-4, ...}

KEY=VALUE changes one setting. docs/pretraining.md says what each section means. The folder
arguments.output_dir gets the model, its tokenizer, metrics.json and the settings of the run.
"""

import argparse

from shd_vit.command import run_tool
from shd_vit.lab.language.settings import read_settings
from shd_vit.lab.language.train import train


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', metavar='CONFIG', help='.yaml file')
    parser.add_argument('overrides', nargs='*', metavar='KEY=VALUE', help='settings to change')
    parser.add_argument('--resume', action='store_true', help='go on from the last checkpoint')
    args = parser.parse_intermixed_args()
    train(read_settings(args.config, args.overrides), args.resume)


if __name__ == '__main__':
    run_tool(main)
