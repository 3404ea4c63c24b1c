"Prints one pip constraint for each lower bound in settings.ini: the oldest versions that tsmeta says it works with."
import re
from configparser import ConfigParser
from pathlib import Path

# These shape the work on tsmeta, not what its users install
TOOLS = {'dev_requirements', 'test_requirements'}


def oldest(text):
    "Turns every `name>=version` of the requirements that users install into `name==version`."
    config = ConfigParser()
    config.read_string(text)
    wanted = [v for k, v in config['DEFAULT'].items() if k.endswith('requirements') and k not in TOOLS]
    return [f'{name}=={version}' for name, version in re.findall(r'^\s*([\w.-]+)(?:\[.*?\])?\s*>=\s*([\w.]+)', '\n'.join(wanted), re.M)]


if __name__ == '__main__': print(*oldest(Path('settings.ini').read_text(encoding='utf-8')), sep='\n')
