"""What is likely to go wrong on this computer in any training: python -m tools.doctor"""

from library.environment import prepare_process

BLOCKS = 24
"""Of Stable Diffusion 3.5 Medium's transformer."""


def report() -> str:
    """The findings about GPU, driver and packages, as text."""
    from library.config.files import read_settings
    from library.preflight.finding import describe_findings
    from library.preflight.machine import machine_findings, this_machine

    settings = read_settings(None, {"pretrained_model_name_or_path": "stabilityai/stable-diffusion-3.5-medium"})
    return describe_findings(machine_findings(this_machine(), settings.model, BLOCKS))


if __name__ == "__main__":
    prepare_process()
    print(report())
