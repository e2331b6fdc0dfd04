"""The AlexNet guide's scoring script, done by zoofast."""

from zoofast.guide_script import run

if __name__ == "__main__":
    run(
        "score {benchmark_out} {anno_file} -o {result_file}",
        "--anno_file=./HiAI_label.json",
        "--benchmark_out=result/dumpOutput_device0",
        "--result_file=./result.json",
    )
