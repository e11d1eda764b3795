"""The command line of training: `python train.py fit -c configs/easy_vqa.yaml` is `vlm fit ...`."""

from vlm.cli.main import main

if __name__ == "__main__":
    main()
