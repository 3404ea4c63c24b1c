"Hands the requirements and classifiers kept in settings.ini to setuptools; the static metadata is in pyproject.toml."
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

STATUS = ['1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta', '5 - Production/Stable', '6 - Mature', '7 - Inactive']
SUFFIX = '_requirements'


def lines(text): return [line.strip() for line in text.splitlines() if line.strip()]


config = ConfigParser()
config.read(Path(__file__).with_name('settings.ini'), encoding='utf-8')
cfg = config['DEFAULT']

setup(
    install_requires=lines(cfg['requirements']),
    extras_require={k[:-len(SUFFIX)]: lines(v) for k, v in cfg.items() if k.endswith(SUFFIX)},
    classifiers=[f"Development Status :: {STATUS[int(cfg['status']) - 1]}", f"Intended Audience :: {cfg['audience']}",
                 'Programming Language :: Python :: 3', 'Topic :: Scientific/Engineering :: Artificial Intelligence'],
)
