"""Arms, events, what stands and repeats where, users and data access groups."""

from __future__ import annotations

from collections.abc import Callable

from fiona_dagster.redcap.sandbox.call import NO_DESIGN, Call, not_valid
from fiona_dagster.redcap.sandbox.formats import Answer, ApiError, ExportRow
from fiona_dagster.redcap.sandbox.setup import dag_name, unique_name
from fiona_dagster.redcap.sandbox.store import ALL_RIGHTS


def _longitudinal(call: Call, what: str) -> None:
    if not call.project.setup.longitudinal:
        raise ApiError(f"You cannot export {what} for classic projects")


def _action(call: Call) -> str:
    return call.params.choice(
        "action", ("export", "import", "delete"), "import" if call.params.has("data") else "export"
    )


def _number(row: dict[str, str], key: str) -> int:
    if not row.get(key, "").isdecimal():
        raise not_valid(key, row.get(key, ""))
    return int(row[key])


def _wanted_arms(call: Call) -> set[int]:
    asked = call.params.list("arms")
    known = {str(number) for number, _ in call.project.setup.arms}
    if wrong := [arm for arm in asked if arm not in known]:
        raise not_valid("arms", wrong[0])
    return {int(arm) for arm in asked or known}


def _arms(call: Call) -> Answer:
    setup = call.project.setup
    action = _action(call)
    if action == "import":
        kept = {} if call.params.flag("override") else dict(setup.arms)
        rows = call.data()
        kept |= {_number(row, "arm_num"): row.get("name", "") for row in rows}
        call.change_setup("Create arms", arms=tuple(sorted(kept.items())))
        return call.count(len(rows))
    if action == "delete":
        gone = _wanted_arms(call) if call.params.list("arms") else set()
        call.change_setup(
            "Delete arms",
            arms=tuple(arm for arm in setup.arms if arm[0] not in gone),
            events=tuple(event for event in setup.events if event[1] not in gone),
        )
        return call.count(len(gone))
    _longitudinal(call, "arms")
    used = {arm for _, arm in setup.events} & _wanted_arms(call)
    rows_: list[ExportRow] = [{"arm_num": n, "name": name} for n, name in setup.arms if n in used]
    return call.rows(rows_, "arms")


def _events(call: Call) -> Answer:
    setup = call.project.setup
    action = _action(call)
    if action == "import":
        rows = call.data()
        kept = () if call.params.flag("override") else setup.events
        new = [(row.get("event_name", ""), _number(row, "arm_num")) for row in rows]
        arms = dict(setup.arms)
        for _, arm in new:
            arms.setdefault(arm, f"Arm {arm}")
        call.change_setup(
            "Create events", events=tuple(dict.fromkeys([*kept, *new])), arms=tuple(sorted(arms.items()))
        )
        return call.count(len(rows))
    if action == "delete":
        gone = set(call.params.list("events"))
        if unknown := sorted(gone - set(setup.event_names)):
            raise not_valid("events", unknown[0])
        call.change_setup(
            "Delete events",
            events=tuple(event for event in setup.events if unique_name(*event) not in gone),
            mapping=tuple(pair for pair in setup.mapping if pair[0] not in gone),
            repeats=tuple(pair for pair in setup.repeats if pair[0] not in gone),
        )
        return call.count(len(gone))
    _longitudinal(call, "events")
    arms_ = _wanted_arms(call)
    rows_: list[ExportRow] = [
        {
            "event_name": name,
            "arm_num": arm,
            "unique_event_name": unique_name(name, arm),
            "custom_event_label": "",
            "event_id": index,
        }
        for index, (name, arm) in enumerate(setup.events, 1)
        if arm in arms_
    ]
    return call.rows(rows_, "events")


def _mapping(call: Call) -> Answer:
    setup = call.project.setup
    if _action(call) == "import":
        rows = call.data()
        pairs = [(row.get("unique_event_name", ""), row.get("form", "")) for row in rows]
        for event, form in pairs:
            if event not in setup.event_names or form not in call.project.dictionary.forms:
                raise not_valid("data", event if event not in setup.event_names else form)
        call.change_setup("Perform instrument-event mappings", mapping=tuple(dict.fromkeys(pairs)))
        return call.count(len(rows))
    _longitudinal(call, "form/event mappings")
    arms = {unique_name(name, arm): arm for name, arm in setup.events}
    wanted = _wanted_arms(call)
    rows_: list[ExportRow] = [
        {"arm_num": arms[event], "unique_event_name": event, "form": form}
        for event in setup.event_names
        for form in call.project.dictionary.forms
        if setup.has_form(event, form) and arms[event] in wanted
    ]
    return call.rows(rows_, "items")


def _repeating(call: Call) -> Answer:
    setup = call.project.setup
    if _action(call) == "import":
        rows = call.data()
        pairs = [(row.get("event_name", ""), row.get("form_name", "")) for row in rows]
        for event, form in pairs:
            if (form and form not in call.project.dictionary.forms) or (
                event and event not in setup.event_names
            ):
                raise not_valid("data", form)
        call.change_setup("Set up repeating instruments", repeats=tuple(dict.fromkeys(pairs)))
        return call.count(len(rows))
    if not setup.repeats:
        raise ApiError(
            "You cannot export repeating instruments and events because the project does not contain any "
            "repeating instruments and events"
        )
    rows_: list[ExportRow] = []
    for event, form in setup.repeats:
        place: ExportRow = {"event_name": event} if setup.longitudinal else {}
        rows_.append({**place, "form_name": form, "custom_form_label": ""})
    return call.rows(rows_, "items")


def _groups(call: Call) -> Answer:
    setup = call.project.setup
    action = call.params.choice(
        "action", ("export", "import", "delete", "switch"), "import" if call.params.has("data") else "export"
    )
    if action == "switch":
        unique = call.params.get("dag")
        if unique and unique not in setup.dag_names:
            raise not_valid("dag", unique)
        call.store.set_user(
            call.project.name, call.access.user, rights=sorted(call.access.rights), dag=unique
        )
        return call.count(1)
    if action == "import":
        rows = call.data()
        names = dict(setup.dag_names)
        for row in rows:
            name = row.get("data_access_group_name", "")
            names[row.get("unique_group_name") or dag_name(name)] = name
        call.change_setup("Create data access groups", dags=tuple(names.values()))
        return call.count(len(rows))
    if action == "delete":
        gone = call.params.list("dags")
        if unknown := [name for name in gone if name not in setup.dag_names]:
            raise not_valid("dags", unknown[0])
        kept = tuple(name for unique, name in setup.dag_names.items() if unique not in gone)
        call.change_setup("Delete data access groups", dags=kept)
        return call.count(len(gone))
    rows_: list[ExportRow] = [
        {"data_access_group_name": name, "unique_group_name": unique, "data_access_group_id": index}
        for index, (unique, name) in enumerate(setup.dag_names.items(), 1)
    ]
    return call.rows(rows_, "dags", ("data_access_group_name", "unique_group_name", "data_access_group_id"))


def _user_groups(call: Call) -> Answer:
    if _action(call) == "import":
        call.need("design", NO_DESIGN)
        rows = call.data()
        users = {access.user: access for access in call.store.users(call.project.name)}
        for row in rows:
            group, user = row.get("redcap_data_access_group", ""), users.get(row.get("username", ""))
            if user is None or (group and group not in call.project.setup.dag_names):
                raise not_valid("data", row.get("username", "") if user is None else group)
            call.store.set_user(call.project.name, user.user, rights=sorted(user.rights), dag=group)
        return call.count(len(rows))
    rows_: list[ExportRow] = [
        {"username": access.user, "redcap_data_access_group": access.dag}
        for access in call.store.users(call.project.name)
    ]
    return call.rows(rows_, "items")


def _users(call: Call) -> Answer:
    action = _action(call)
    if action == "delete":
        call.need("design", NO_DESIGN)
        known = {access.user for access in call.store.users(call.project.name)}
        gone = call.params.list("users")
        if unknown := [name for name in gone if name not in known]:
            raise not_valid("users", unknown[0])
        for name in gone:
            call.store.set_user(call.project.name, name, rights=None, dag="")
        return call.count(len(gone))
    if action == "import":
        call.need("design", NO_DESIGN)
        rows = call.data()
        for row in rows:
            rights = [name for name in ALL_RIGHTS if row.get(_RIGHTS[name], "1") == "1"]
            known = {access.user for access in call.store.users(call.project.name)}
            if row.get("username", "") not in known:
                call.store.add_token(call.project.name, row.get("username", ""), rights)
            else:
                call.store.set_user(call.project.name, row["username"], rights=rights, dag="")
        return call.count(len(rows))
    return call.rows(
        [_user(call, access.user, access.rights) for access in call.store.users(call.project.name)], "records"
    )


_RIGHTS = {
    "api": "api_access",
    "export": "api_export",
    "import": "api_import",
    "delete": "record_delete",
    "design": "design",
}


def _user(call: Call, name: str, rights: frozenset[str]) -> ExportRow:
    forms = dict.fromkeys(call.project.dictionary.forms, 1)
    shown = forms if call.params.format == "json" else ",".join(f"{form}:1" for form in forms)
    row: ExportRow = {"username": name, "email": "", "firstname": "", "lastname": ""}
    row |= {column: int(right in rights) for right, column in _RIGHTS.items() if right != "api"}
    row["forms"] = row["forms_export"] = shown  # type: ignore[assignment] # an object in JSON only
    return row


HANDLERS: dict[str, Callable[[Call], Answer]] = {
    "arm": _arms,
    "event": _events,
    "formEventMapping": _mapping,
    "repeatingFormsEvents": _repeating,
    "dag": _groups,
    "userDagMapping": _user_groups,
    "user": _users,
}
