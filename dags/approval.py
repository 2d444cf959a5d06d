"""A person's yes, between the verdict and the crown: Airflow's approval operator, for runs whose spec asks for it."""

import datetime
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.sdk.exceptions import AirflowSkipException

from launch import read_text

NO = ApprovalOperator.REJECT


class Approval(ApprovalOperator):
    """Shows the verdict and waits. No answer in time is a no.

    A no skips nothing: `promote` is told and keeps the candidate as a challenger. Skipped where the spec asks for no approval, or where
    there is nothing to approve.
    """

    template_fields = ("begun", "judged", "candidate")

    def __init__(self, *, begun: Any, judged: Any, candidate: Any, **settings: Any) -> None:
        super().__init__(subject="Crown the candidate?", defaults=NO, **settings)
        self.begun, self.judged, self.candidate = begun, judged, candidate

    def execute(self, context: Any) -> Any:
        """Ask, with the verdict's page as the text."""
        spec, judged = self.begun["output"]["spec"], self.judged["output"]
        if not spec["approval"]:
            raise AirflowSkipException("the spec asks for no approval")
        if judged["verdict"] != "promoted" or (judged["champion"] or {}).get("digest") == self.candidate["digest"]:
            raise AirflowSkipException("there is nothing to approve")
        self.subject = f"Crown this candidate as champion of {spec['name']}?"
        self.body = read_text(self.judged["manifest"].replace("manifest.json", "verdict.md"))
        self.response_timeout = datetime.timedelta(hours=spec["approval_hours"])
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """What `promote` is told: {approved, by}; by is None where nobody answered in time."""
        answer = HITLOperator.execute_complete(self, context, event)
        user = answer["responded_by_user"]
        return {"approved": answer["chosen_options"] == [self.APPROVE], "by": (user or {}).get("name")}
