"""What a person does in Airflow's and MLflow's pages."""

from typing import Any
from urllib.parse import quote


def sign_in(window: Any, url: str, password: str) -> None:
    """Log in to Airflow as `admin`."""
    page = window.page
    page.goto(url)
    page.wait_for_url("**/auth/login**")
    page.locator("input[name=username]").fill("admin")
    page.locator("input[name=password]").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda address: "/auth/" not in address)
    window.errors.clear()  # whoever is not logged in yet is told so by a 401


def fill_in(window: Any, url: str, fields: dict[str, Any], sections: dict[str, str]) -> None:
    """Open the form of `effir_compress` and fill in these fields; sections: the section of each field."""
    page = window.page
    page.goto(f"{url}/dags/effir_compress")
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog").filter(has_text="Single Run")
    for section in dict.fromkeys(sections[name] for name in fields):
        heading = form.get_by_role("button", name=section, exact=True)
        if heading.get_attribute("aria-expanded") != "true":
            heading.click()
        for name in (one for one in fields if sections[one] == section):
            enter(form, name, fields[name])


def enter(form: Any, name: str, value: Any) -> None:
    """Type a value into a field, or choose it."""
    choice = form.locator(f"#element_{name} input[role=combobox]")
    box = form.locator(f"input[name=element_{name}]:not([type=hidden])")
    choice.or_(box).first.wait_for()
    if choice.count():
        choice.click()
        choice.press_sequentially(str(value))
        choice.press("Enter")
    else:
        box.fill(f"{value:.12f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value))
        box.blur()


def trigger(window: Any) -> str:
    """Press Trigger; returns the id of the run that Airflow then shows."""
    window.page.get_by_role("dialog").get_by_role("button", name="Trigger", exact=True).click()
    window.page.wait_for_url("**/runs/*")
    return window.page.url.rpartition("/runs/")[2].partition("/")[0].partition("?")[0]


def run_page(url: str, run_id: str) -> str:
    """Where Airflow shows a run."""
    return f"{url}/dags/effir_compress/runs/{quote(run_id)}"
