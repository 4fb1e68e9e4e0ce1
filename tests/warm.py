"""Runs Python programs in processes that find torch, timm and torchmetrics imported, which is most of what a short
program costs: of each a line of JSON on stdin, when it has ended a line with the exit statuses on stdout.

Each process is a fork of this one, which does nothing but wait: whatever it computed would leave threads behind that a
fork does not have.
"""

import json
import os
import sys

import timm  # noqa: F401
import torchmetrics  # noqa: F401

import augment_gpu.cli
import augment_gpu.transfer.train  # noqa: F401


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        children = []
        for environment in job["environments"]:
            children.append(os.fork())
            if children[-1] == 0:
                log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the next job is not the program's to read
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.environ.clear()
                os.environ.update(environment)
                os.chdir(job["folder"])
                sys.argv = ["program", *job["arguments"]]
                exec(compile(job["program"], "program", "exec"), {"__name__": "__main__"})
                sys.exit()
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)


if __name__ == "__main__":
    main()
