"""The pages that answer questions: places, people, museums, news, numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import TypeVar

from .markup import Frame, html, link, pager, paragraphs, place, table
from .model import Department, District, Museum, News, Person, Province, Served, Town
from .pdf import write_pdf
from .province import CENSUS, YEARS

Item = TypeVar("Item")
Pages = Iterator[tuple[str, Served]]

TOWNS, MUSEUMS, PEOPLE, NEWS = 20, 12, 15, 9
"""Entries on a page of a list."""
_CODINGS = ("utf-8", "latin-1", "utf-8", "mislabelled", "utf-16", "utf-8", "cp1252")
_HOME = ("Home", "/")


def content(province: Province, frame: Frame) -> Pages:
    """Yield the pages, by path."""
    yield "/districts/", _districts(province, frame)
    for district in province.districts:
        yield f"/districts/{district.slug}", _district(district, frame)
        yield f"/statistics/{district.slug}", _census(district, frame)
    yield "/statistics/", _statistics(province, frame)
    yield from _listed("/towns/", "Towns", TOWNS, province.towns, _town_rows, frame)
    for n, town in enumerate(province.towns):
        yield f"/towns/{town.slug}/", _town(town, frame, _CODINGS[n % len(_CODINGS)])
        if town.old_mayor:
            yield f"/archive/2019/towns/{town.slug}/", _old_town(town, frame)
        if town.former:
            yield from _moved(town)
    yield "/towns/former-names", _former(province, frame)
    yield from _listed("/museums/", "Register of museums", MUSEUMS, province.museums, _museum_rows, frame)
    for museum in province.museums:
        yield f"/museums/{museum.slug}", _museum(museum, frame)
    yield from _listed("/people/", "Staff directory", PEOPLE, province.people, _people_rows, frame)
    for person in province.people:
        yield f"/people/{person.slug}", _person(person, frame)
    yield "/departments/", _departments(province, frame)
    for department in province.departments:
        yield f"/departments/{department.slug}/", _department(department, frame)
    yield from _listed("/news/", "News", NEWS, province.news, _news_rows, frame)
    for news in province.news:
        yield f"/news/{news.slug}", _news(news, frame)
    yield from _ferries(province, frame)
    yield from _reports(province, frame)
    yield from _law(province, frame)


def page_of(items: Sequence[Item], item: Item, entries: int) -> int:
    """Return the page of a list that an item is on."""
    return items.index(item) // entries + 1


def _listed(
    path: str,
    title: str,
    entries: int,
    items: Sequence[Item],
    rows: Callable[[Sequence[Item]], str],
    frame: Frame,
) -> Pages:
    count = -(-len(items) // entries)
    for n in range(1, count + 1):
        body = rows(items[(n - 1) * entries : n * entries]) + pager(path, n, count)
        heading = title if n == 1 else f"{title}, page {n}"
        page = frame.page(heading, f"<p>{len(items)} entries on {count} pages.</p>{body}", [_HOME])
        yield place(path, n), html(page, heading, f"{title} of the province.", title if n == 1 else "")


def _town_rows(towns: Sequence[Town]) -> str:
    columns = ("Town", "District")
    note = paragraphs(f"Some towns had other names: see the {link('former names', '/towns/former-names')}.")
    return note + table(columns, ((link(t.name, f"./{t.slug}/"), escape(t.district.name)) for t in towns))


def _museum_rows(museums: Sequence[Museum]) -> str:
    columns = ("Museum", "Town", "Opened")
    return table(columns, ((link(m.name, f"/museums/{m.slug}"), m.town.name, str(m.opened)) for m in museums))


def _people_rows(people: Sequence[Person]) -> str:
    columns = ("Name", "Department", "Room")
    rows = ((link(p.name, f"/people/{p.slug}"), p.department.name if p.department else "", p.room) for p in people)
    return table(columns, rows)


def _news_rows(news: Sequence[News]) -> str:
    items = (
        f"<h3>{escape(n.title)}</h3><p>{n.date}. In {n.town.name}, {n.work} has begun. "
        f"{link(f'Details: {n.title}', f'/news/{n.slug}')}</p>"
        for n in news
    )
    return "\n".join(items)


def _districts(province: Province, frame: Frame) -> Served:
    rows = ((link(d.name, d.slug), str(len(d.towns))) for d in province.districts)
    text = f"The province of {province.name} has {len(province.districts)} districts. Each page lists its towns."
    page = frame.page("Districts", paragraphs(text) + table(("District", "Towns"), rows), [_HOME])
    return html(page, "Districts", text, "districts")


def _district(district: District, frame: Frame) -> Served:
    towns = "".join(f"<li>{link(town.name, f'/towns/{town.slug}/#content')}</li>" for town in district.towns)
    text = f"{district.name} is a district of the province. Its area is {district.area} square kilometres."
    census = link("Census figures of the district", f"/statistics/{district.slug}")
    body = paragraphs(text, census) + f"<h2>Towns</h2><ul>{towns}</ul>"
    title = f"District of {district.name}"
    page = frame.page(title, body, [_HOME, ("Districts", "/districts/")])
    return html(page, title, f"{district.name} is a district of the province.", district.name)


def _census(district: District, frame: Frame) -> Served:
    rows = ([town.name, *(str(count) for count in town.census)] for town in district.towns)
    body = paragraphs("Inhabitants on the day of each census, from the registers of the towns.")
    body += table(("Town", *map(str, CENSUS)), rows)
    title = f"Census figures: {district.name}"
    page = frame.page(title, body, [_HOME, ("Statistics", "/statistics/")])
    return html(page, title, "Inhabitants on the day of each census.", f"inhabitants population {district.name}")


def _statistics(province: Province, frame: Frame) -> Served:
    items = "".join(f"<li>{link(f'Census figures: {d.name}', f'./{d.slug}')}</li>" for d in province.districts)
    text = "The statistical office counts the inhabitants of every town each ten years."
    return html(frame.page("Statistics", f"{paragraphs(text)}<ul>{items}</ul>", [_HOME]), "Statistics", text, "census")


def _town(town: Town, frame: Frame, coding: str) -> Served:
    district = link(town.district.name, f"/districts/{town.district.slug}")
    museums = "".join(f"<li>{link(m.name, f'../../museums/{m.slug}')}</li>" for m in town.museums)
    texts = [
        f"{town.name} is a town in the district of {district}. It was founded in {town.founded}, and lies on the river "
        f"{town.river}.",
        f"The mayor of {town.name} is {town.mayor}; the deputy mayor is {town.deputy}.",
        f"The town hall is open from {town.hours}. A permit for parking costs {town.fee} crowns a year.",
    ]
    if town.old_mayor:
        older = link("edition of 2019 of this page", f"/archive/2019/towns/{town.slug}/")
        texts.append(f"An {older} is kept in the archive.")
    body = paragraphs(*texts) + (f"<h2>Museums</h2><ul>{museums}</ul>" if museums else "")
    trail = [_HOME, ("Towns", "/towns/")]
    summary = f"{town.name} is a town in the district of {town.district.name}."
    return html(frame.page(town.name, body, trail, summary=summary), town.name, summary, "mayor town hall", coding)


def _old_town(town: Town, frame: Frame) -> Served:
    body = '<p class="note">This is the archived edition of 2019 of a page. It is no longer kept up to date.</p>'
    body += paragraphs(
        f"{town.name} is a town in the district of {town.district.name}. It was founded in {town.founded}, and lies on "
        f"the river {town.river}.",
        f"The mayor of {town.name} is {town.old_mayor}; the deputy mayor is {town.deputy}.",
        f"The town hall is open from {town.hours}. A permit for parking costs {town.old_fee} crowns a year.",
        f"See the {link('current page', f'/towns/{town.slug}/')}.",
    )
    summary = f"{town.name} is a town in the district of {town.district.name}. Archived edition of 2019."
    title = f"{town.name} (edition of 2019)"
    return html(frame.page(title, body, [_HOME, ("Towns", "/towns/")]), title, summary, "mayor town hall archive")


def _former(province: Province, frame: Frame) -> Served:
    towns = sorted((town for town in province.towns if town.former), key=lambda town: town.former)
    items = "".join(f"<li>{link(town.former, f'/towns/by-former-name/{town.former.lower()}')}</li>" for town in towns)
    text = "These names are no longer used. Each leads to the page of the town that had it."
    page = frame.page("Former names of towns", f"{paragraphs(text)}<ul>{items}</ul>", [_HOME, ("Towns", "/towns/")])
    return html(page, "Former names of towns", text, "old names renamed")


def _moved(town: Town) -> Pages:
    """Yield a chain of redirects, the last one relative."""
    yield f"/towns/by-former-name/{town.former.lower()}", Served(301, location=f"/t/{town.slug}")
    yield f"/t/{town.slug}", Served(302, location=f"../towns/{town.slug}")
    yield f"/towns/{town.slug}", Served(308, location=f"{town.slug}/")


def _museum(museum: Museum, frame: Frame) -> Served:
    text = (
        f"The {museum.name} is in {link(museum.town.name, f'/towns/{museum.town.slug}/')}. It opened in "
        f"{museum.opened}, in a house built by the architect {museum.architect}, and its collection holds "
        f"{museum.objects} objects."
    )
    body = paragraphs(text, "Guided tours take place on weekends. Dogs have to stay outside.")
    page = frame.page(museum.name, body, [_HOME, ("Museums", "/museums/")])
    return html(page, museum.name, f"{museum.name}, {museum.town.name}.", "museum architect")


def _person(person: Person, frame: Frame) -> Served:
    assert person.department is not None
    assert person.before is not None
    department = link(person.department.name, f"/departments/{person.department.slug}/")
    body = paragraphs(
        f"{person.name} works in the {department} ({person.job}), and joined the administration in {person.joined}.",
        f"{person.name} grew up in {link(person.town.name, f'/towns/{person.town.slug}/')}, and worked for the "
        f"{link(person.before.name, f'/museums/{person.before.slug}')} before.",
        f"The room is in the {link('staff directory', '/people/')}.",
    )
    page = frame.page(person.name, body, [_HOME, ("Staff", "/people/")])
    return html(page, person.name, f"{person.name} works in the {person.department.name}.", person.job)


def _departments(province: Province, frame: Frame) -> Served:
    items = "".join(f"<li>{link(d.name, f'/departments/{d.slug}/')}</li>" for d in province.departments)
    text = "The administration of the province has these departments."
    return html(frame.page("Departments", f"{paragraphs(text)}<ul>{items}</ul>", [_HOME]), "Departments", text, "")


def _department(department: Department, frame: Frame) -> Served:
    assert department.head is not None
    text = f"The {department.name} is on floor {department.floor} of the provincial house."
    head = f"It is led by {link(department.head.name, f'/people/{department.head.slug}')}."
    some = "".join(f"<li>{link(p.name, f'/people/{p.slug}')}, {escape(p.job)}</li>" for p in department.staff[1:6])
    body = paragraphs(text, head) + f"<h2>Some of the staff</h2><ul>{some}</ul>"
    page = frame.page(department.name, body, [_HOME, ("Departments", "/departments/")])
    return html(page, department.name, text, "department head")


def _news(news: News, frame: Frame) -> Served:
    author = link(news.author.name, f"/people/{news.author.slug}")
    body = paragraphs(
        f"{news.date}. In {link(news.town.name, f'/towns/{news.town.slug}/')}, {news.work} has begun. The cost is put "
        f"at {news.cost} crowns, and the work is to take {news.days} days.",
        "Residents were told by letter. Access for ambulances and the fire brigade stays free at all times, and the "
        "deliveries of shops are possible in the morning.",
        f"Reported by {author}.",
    )
    page = frame.page(news.title, body, [_HOME, ("News", "/news/")])
    return html(page, news.title, f"In {news.town.name}, {news.work} has begun.", "")


def _ferries(province: Province, frame: Frame) -> Pages:
    items = "".join(f"<li>{link(f'Line {each.number}', f'line-{each.number}')}</li>" for each in province.lines)
    text = "Ferries run every day from May to October."
    yield (
        "/ferries/",
        html(frame.page("Ferries", f"{paragraphs(text)}<ul>{items}</ul>", [_HOME]), "Ferries", text, "timetable"),
    )
    for each in province.lines:
        rows = ((stop, f"{8 + minute // 60:02}.{minute % 60:02}") for stop, minute in each.stops)
        body = paragraphs("First boat of the day; the others follow every two hours.")
        body += table(("Landing stage", "Departure"), rows)
        title = f"Ferry line {each.number}"
        page = frame.page(title, body, [_HOME, ("Ferries", "/ferries/")])
        yield f"/ferries/line-{each.number}", html(page, title, "First boat of the day.", "ferry timetable departure")


def _reports(province: Province, frame: Frame) -> Pages:
    items = "".join(f"<li>{link(f'Report for {year}', f'/reports/{year}')}</li>" for year in YEARS)
    text = "The province reports each year on what its departments spent, and on their posts."
    yield (
        "/reports/",
        html(frame.page("Annual reports", f"{paragraphs(text)}<ul>{items}</ul>", [_HOME]), "Annual reports", text, ""),
    )
    for year in YEARS:
        title, path = f"Annual report for {year}", f"/files/report-{year}.pdf"
        body = paragraphs("The report as a file:", link(f"Download (PDF, {year})", path))
        page = frame.page(title, body, [_HOME, ("Annual reports", "/reports/")])
        yield f"/reports/{year}", html(page, title, f"The annual report for {year}.", "report PDF")
        rows = [[f"{d.name}: spent {d.spent[year]} thousand crowns, {d.posts[year]} posts." for d in half]
                for half in (province.departments[::2], province.departments[1::2])]  # fmt: skip
        pages = [[title, f"Province of {province.name}", "", "Foreword", "It was a year of many works."]]
        pages += [[f"{title}, part {n}", "", *lines] for n, lines in enumerate(rows, 1)]
        yield path, Served(content_type="application/pdf", body=write_pdf(pages, title))


def _law(province: Province, frame: Frame) -> Pages:
    text = "What the council of the province has resolved."
    body = paragraphs(text, link("By-laws in full", "by-laws"))
    yield "/law/", html(frame.page("By-laws", body, [_HOME]), "By-laws", text, "law sections fees")
    sections = []
    for section in province.sections:
        title = f"Section {section.number}. {section.subject.capitalize()}"
        sections.append(
            f"<h2>{escape(title)}</h2>"
            + paragraphs(
                f"(1) Whoever wants to use the province's land or waters for {section.subject} needs a permit. It is "
                f"applied for in writing, with a plan of the place, at least {section.days} days before.",
                f"(2) The fee of the permit under section {section.number} is {section.fee} crowns. It is not paid "
                "back where the permit is not used.",
                "(3) The permit may be refused where the peace of the neighbourhood, the traffic or the waters would "
                "suffer.",
            )
        )
    page = frame.page("By-laws in full", "\n".join(sections), [_HOME, ("By-laws", "/law/")])
    yield "/law/by-laws", html(page, "By-laws in full", text, "sections permit fee")
