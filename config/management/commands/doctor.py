"""`manage.py doctor`: what is wrong with this deployment, and how to mend it."""

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from config import doctor
from config.findings import Finding, Grade


class Command(BaseCommand):
    help = (
        "Check configuration, servers, migrations, clocks, queues and the ledger. Exits with 1 when there is a problem."
    )
    requires_system_checks = ()  # they are part of what is reported

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, **options: Any) -> None:
        findings = list(doctor.examine(now=timezone.now()))
        problems = sum(finding.grade == Grade.PROBLEM for finding in findings)
        if options["json"]:
            self.stdout.write(json.dumps({"problems": problems, "checks": [finding.as_json() for finding in findings]}))
        else:
            self.report(findings)
        if problems:
            sys.exit(1)

    def report(self, findings: list[Finding]) -> None:
        """Aligned lines; what is to be done stands below its problem."""
        width = max(len(finding.name) for finding in findings)
        colours = {Grade.OK: self.style.SUCCESS, Grade.PROBLEM: self.style.ERROR, Grade.INFORMATION: self.style.NOTICE}
        for finding in findings:
            grade = colours[finding.grade](f"{finding.grade:<7}")
            self.stdout.write(f"{grade}  {finding.name:<{width}}  {finding.detail}")
            if finding.mend:
                self.stdout.write(f"{'':9}{'':{width}}  mend: {finding.mend}")
