"""Extraction: fields of a short text as a JSON object with the asked keys in the asked order, null for what is missing.

A domain is a kind of text, with its fields and how texts say them. Texts and instructions have wordings of their own
that training never sees.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass

import made_up
from exchange import BEFORE, Exchange, Split, wording
from made_up import Maker, Value, number

SHARE_ZH, SHARE_RECORDS, SHARE_BESIDE, SHARE_MISSING = 0.15, 0.06, 0.15, 0.2


@dataclass(frozen=True)
class Domain:
    """A kind of text: a maker for each field, and texts with the fields in braces."""

    fields: Mapping[str, Maker]
    train: tuple[str, ...]
    held_out: tuple[str, ...]


DOMAINS = (
    Domain(
        {"name": made_up.full_name, "age": number(1, 99), "city": made_up.town, "job": made_up.job},
        (
            "{name} is {age} years old and lives in {city}.",
            "{name} ({age}) from {city} works as a {job}.",
            "My name is {name}, I am {age} and I live in {city}.",
            "{name}, {age}, moved to {city} last year.",
            "In {city} lives {name}, a {job} of {age}.",
            "{name} is a {job} from {city}.",
            "I am {name}, {age} years old, and I work as a {job}.",
            "At {age}, {name} is the youngest {job} in {city}.",
        ),
        ("{name} lives in {city} and is {age} years old.", "This is {name}, a {age}-year-old {job} from {city}."),
    ),
    Domain(
        {"product": made_up.things, "quantity": number(1, 999), "price": made_up.price, "order": made_up.code},
        (
            "Order {order}: {quantity} {product} at ${price} each.",
            "I would like to buy {quantity} {product} for {price} dollars.",
            "Please send me {quantity} {product}. My order is {order}.",
            "We ordered {quantity} {product} at {price} euros.",
            "{quantity} {product} cost {price} dollars in order {order}.",
            "The customer wants {quantity} {product} and pays {price} dollars.",
            "Order number {order} has {quantity} {product}.",
        ),
        ("Someone bought {quantity} {product} for ${price}.", "In order {order} there are {quantity} {product}."),
    ),
    Domain(
        {"title": made_up.word, "day": made_up.day, "time": made_up.time, "room": made_up.code},
        (
            "The {title} meeting is on {day} at {time} in room {room}.",
            "We meet on {day} at {time} in room {room}.",
            "{day}, {time}: {title} meeting in room {room}.",
            "Do not forget the {title} meeting at {time} on {day}.",
            "The {title} meeting moved to {day}, {time}.",
            "Room {room} is booked for {day} at {time}.",
            "See you in room {room} on {day} at {time} for the {title} meeting.",
        ),
        ("On {day} at {time} there is a {title} meeting in room {room}.", "Join us in room {room} at {time} on {day}."),
    ),
    Domain(
        {"flight": made_up.code, "from": made_up.town, "to": made_up.town, "time": made_up.time, "gate": number(1, 99)},
        (
            "Flight {flight} from {from} to {to} leaves at {time}.",
            "{flight} flies from {from} to {to} at {time} from gate {gate}.",
            "The plane to {to} leaves {from} at {time}, gate {gate}.",
            "Flight {flight} to {to} is boarding at gate {gate}.",
            "From {from} to {to} with flight {flight}.",
            "At {time} flight {flight} takes off for {to}.",
        ),
        ("Flight {flight} goes from {from} to {to}, gate {gate}.", "Your flight {flight} to {to} departs at {time}."),
    ),
    Domain(
        {"dish": made_up.word, "minutes": number(2, 240), "servings": number(1, 20), "calories": number(50, 1500)},
        (
            "{dish} takes {minutes} minutes and serves {servings} people.",
            "Cook the {dish} for {minutes} minutes. It is enough for {servings} servings.",
            "A plate of {dish} has {calories} calories and is ready in {minutes} minutes.",
            "Recipe for {dish}: {servings} servings, {calories} calories.",
            "With {minutes} minutes of cooking you get {servings} servings of {dish}.",
            "{dish}, {calories} calories, {minutes} minutes.",
        ),
        ("The {dish} needs {minutes} minutes and makes {servings} servings.", "{dish} is done in {minutes} minutes."),
    ),
    Domain(
        {
            "position": made_up.job,
            "company": made_up.company,
            "salary": number(1000, 99999),
            "city": made_up.town,
        },
        (
            "{company} is looking for a {position} in {city}.",
            "{company} pays a {position} {salary} dollars.",
            "Job offer: {position} at {company}, {city}, salary {salary}.",
            "A {position} is wanted in {city}. The salary is {salary}.",
            "Work as a {position} for {company} and earn {salary} dollars.",
            "In {city}, {company} needs a new {position}.",
        ),
        ("{company} in {city} hires a {position}.", "We are {company} and offer a {position} {salary} dollars."),
    ),
    Domain(
        {"name": made_up.first_name, "animal": made_up.animal, "age": number(1, 30), "owner": made_up.full_name},
        (
            "{name} is a {animal} of {age} years.",
            "{owner} has a {animal} called {name}.",
            "My {animal} {name} is {age} years old.",
            "The {animal} {name} belongs to {owner}.",
            "{owner} owns {name}, a {age}-year-old {animal}.",
            "A {animal} named {name}, {age} years old, lives with {owner}.",
        ),
        ("{name}, the {animal} of {owner}, is {age} years old.", "{owner} lives with a {animal} named {name}."),
    ),
    Domain(
        {
            "title": made_up.title,
            "author": made_up.full_name,
            "year": number(1700, 2030),
            "pages": number(20, 1500),
        },
        (
            "{title} by {author} came out in {year}.",
            "{author} wrote {title} in {year}.",
            "The book {title} has {pages} pages and was written by {author}.",
            "{author} published {title}, a book of {pages} pages.",
            "In {year} {author} wrote {title}.",
            "I am reading {title} ({year}) by {author}.",
            "{title} is a book of {pages} pages from {year}.",
        ),
        (
            "The author of {title} is {author}; it appeared in {year}.",
            "{title}, written by {author}, has {pages} pages.",
        ),
    ),
    Domain(
        {
            "home": made_up.town,
            "guest": made_up.town,
            "home_goals": number(0, 12),
            "guest_goals": number(0, 12),
            "day": made_up.day,
        },
        (
            "{home} played against {guest} on {day}.",
            "{home} - {guest} {home_goals}:{guest_goals}",
            "{home} against {guest} ended {home_goals}:{guest_goals}.",
            "On {day} {home} met {guest} and it ended {home_goals}:{guest_goals}.",
            "The match {home} - {guest} was on {day}.",
            "Final score: {home} {home_goals}, {guest} {guest_goals}.",
        ),
        (
            "{home} and {guest} played {home_goals}:{guest_goals} on {day}.",
            "Result: {home} - {guest} {home_goals}:{guest_goals}.",
        ),
    ),
    Domain(
        {
            "invoice": made_up.code,
            "customer": made_up.full_name,
            "amount": made_up.price,
            "date": made_up.date,
        },
        (
            "Invoice {invoice} for {customer}: {amount} dollars.",
            "{customer} has to pay {amount} euros by {date}.",
            "Invoice {invoice} of {date} is over ${amount}.",
            "We sent invoice {invoice} to {customer} on {date}.",
            "{customer} paid {amount} dollars for invoice {invoice}.",
            "The amount of {amount} dollars on invoice {invoice} is due on {date}.",
        ),
        ("{customer} got invoice {invoice} over {amount} dollars.", "On {date} {customer} paid ${amount}."),
    ),
    Domain(
        {"name": made_up.full_name, "email": made_up.email, "phone": made_up.phone, "city": made_up.town},
        (
            "You can reach {name} at {email} or {phone}.",
            "{name}, {email}, {phone}",
            "Contact: {name}, phone {phone}.",
            "Write to {name} in {city}: {email}.",
            "Call {name} at {phone}.",
            "{name} from {city} has the number {phone}.",
            "My name is {name} and my email is {email}.",
            "Send it to {email} or call {phone} and ask for {name}.",
        ),
        ("{name} has the email {email} and the phone number {phone}.", "For questions call {name} in {city}: {phone}."),
    ),
    Domain(
        {
            "city": made_up.town,
            "temperature": number(-30, 45),
            "sky": made_up.among("sunny cloudy rainy snowy windy foggy clear stormy".split()),
            "wind": number(1, 120),
        },
        (
            "It is {temperature} degrees and {sky} in {city}.",
            "{city}: {sky}, {temperature} degrees, wind {wind} km/h.",
            "Today it is {sky} in {city} with {temperature} degrees.",
            "In {city} we have {temperature} degrees and wind of {wind} km/h.",
            "The weather in {city} is {sky} at {temperature} degrees.",
            "Expect a {sky} day in {city} with wind of {wind} km/h.",
        ),
        (
            "{city} is {sky} with {temperature} degrees today.",
            "In {city} it is {sky} and the wind blows at {wind} km/h.",
        ),
    ),
    Domain(
        {
            "rooms": number(1, 12),
            "rent": number(200, 9000),
            "city": made_up.town,
            "size": number(15, 400),
        },
        (
            "Flat in {city} with {rooms} rooms for {rent} dollars a month.",
            "For rent: {rooms} rooms, {size} square meters, {city}.",
            "The flat has {size} square meters and costs {rent} euros a month.",
            "We rent out {rooms} rooms in {city}; the rent is {rent}.",
            "{size} square meters and {rooms} rooms for a rent of {rent} dollars.",
            "In {city} a flat of {size} square meters costs {rent} dollars.",
        ),
        ("A flat of {rooms} rooms in {city} costs {rent} dollars.", "{city}: {rooms} rooms on {size} square meters."),
    ),
    Domain(
        {
            "parcel": made_up.code,
            "recipient": made_up.full_name,
            "city": made_up.town,
            "weight": made_up.decimal,
            "day": made_up.day,
        },
        (
            "Parcel {parcel} goes to {recipient} in {city}.",
            "The parcel {parcel} of {weight} kg arrives on {day}.",
            "{recipient} gets parcel {parcel} on {day}.",
            "Deliver {parcel} ({weight} kg) to {recipient}, {city}.",
            "On {day} a parcel of {weight} kg came to {recipient}.",
            "Parcel for {recipient}, {city}: {weight} kg.",
        ),
        (
            "{parcel} is a parcel of {weight} kg for {recipient}.",
            "Parcel {parcel} reaches {recipient} in {city} on {day}.",
        ),
    ),
    Domain(
        {
            "model": made_up.word,
            "color": made_up.color,
            "year": number(1960, 2030),
            "price": number(500, 90000),
        },
        (
            "I sell a {color} {model} from {year} for {price} dollars.",
            "{model}, {color}, {year}, ${price}",
            "A {model} of {year} costs {price} dollars.",
            "She drives a {color} {model} built in {year}.",
            "For sale: {color} {model}, {price} euros.",
            "The car is a {model} from {year} and it is {color}.",
        ),
        ("My {color} {model} was built in {year}.", "You can buy the {color} {model} for {price} dollars."),
    ),
    Domain(
        {"event": made_up.title, "date": made_up.date, "place": made_up.town, "price": made_up.price},
        (
            "The concert {event} is on {date} in {place}.",
            "{event}, {place}, {date}, tickets {price} dollars",
            "Tickets for {event} in {place} cost {price} euros.",
            "On {date} you can see {event} in {place}.",
            "We go to {event} on {date}; a ticket costs ${price}.",
            "{place} hosts {event} on {date}.",
        ),
        ("See {event} on {date} in {place}.", "{event} takes place in {place} and costs {price} dollars."),
    ),
    Domain(
        {"guest": made_up.full_name, "people": number(1, 20), "day": made_up.day, "time": made_up.time},
        (
            "A table for {people} on {day} at {time}, name {guest}.",
            "{guest} booked a table for {people} people at {time}.",
            "Please book for {guest}: {people} people, {day}, {time}.",
            "We are {people} people and come on {day} at {time}.",
            "{guest} comes on {day} with {people} people.",
            "Table for {guest}, {day} {time}.",
        ),
        (
            "{guest} wants a table for {people} people on {day} at {time}.",
            "At {time} {guest} comes with {people} people.",
        ),
    ),
    Domain(
        {
            "student": made_up.full_name,
            "subject": made_up.among("math history physics art music biology chemistry geography".split()),
            "grade": number(1, 100),
            "teacher": made_up.full_name,
        },
        (
            "{student} got {grade} points in {subject}.",
            "In {subject} {teacher} gave {student} {grade} points.",
            "{teacher} teaches {subject}; the student is {student}.",
            "{student}: {subject}, grade {grade}.",
            "The grade of {student} in {subject} is {grade}.",
            "{student} learns {subject} from {teacher}.",
        ),
        ("{student} has {grade} points in {subject}.", "The {subject} teacher of {student} is {teacher}."),
    ),
    Domain(
        {"song": made_up.title, "artist": made_up.full_name, "year": number(1900, 2030), "minutes": number(1, 20)},
        (
            "{song} is a song by {artist} from {year}.",
            "{artist} sang {song} in {year}.",
            "The song {song} by {artist} is {minutes} minutes long.",
            "Now playing: {song} by {artist}, {year}.",
            "In {year} {artist} recorded {song}.",
            "{song} ({minutes} minutes) was a hit of {artist}.",
        ),
        ("{artist} recorded the song {song} in {year}.", "{song} by {artist} lasts {minutes} minutes."),
    ),
    Domain(
        {"team": made_up.word, "leader": made_up.full_name, "members": number(2, 200), "budget": number(100, 999999)},
        (
            "Team {team} has {members} members and a budget of {budget} dollars.",
            "{leader} leads the team {team} with {members} members.",
            "The leader of team {team} is {leader}.",
            "{leader} has {members} members in team {team}.",
            "Team {team}, led by {leader}, may spend a budget of {budget}.",
        ),
        (
            "{leader} is the leader of team {team}, which has {members} members.",
            "The budget of team {team} is {budget}.",
        ),
    ),
    Domain(
        {
            "train": made_up.code,
            "from": made_up.town,
            "to": made_up.town,
            "platform": number(1, 40),
            "delay": number(1, 120),
        },
        (
            "Train {train} to {to} leaves from platform {platform}.",
            "The train {train} from {from} is {delay} minutes late.",
            "{train} from {from} to {to} has a delay of {delay} minutes.",
            "Platform {platform}: train {train} from {from} to {to}.",
            "Take train {train} from {from} to {to}, platform {platform}.",
            "The train to {to} on platform {platform} is {delay} minutes late.",
        ),
        ("Train {train} goes from {from} to {to}.", "The delay of train {train} to {to} is {delay} minutes."),
    ),
    Domain(
        {"patient": made_up.full_name, "doctor": made_up.full_name, "date": made_up.date, "time": made_up.time},
        (
            "{patient} sees doctor {doctor} on {date} at {time}.",
            "Doctor {doctor} has time for {patient} on {date}.",
            "The patient {patient} comes at {time} on {date}.",
            "Patient: {patient}. Doctor: {doctor}. Time: {time}.",
            "On {date} at {time} doctor {doctor} meets the patient {patient}.",
        ),
        ("Doctor {doctor} sees {patient} at {time}.", "The patient {patient} has a visit on {date} at {time}."),
    ),
    Domain(
        {"item": made_up.thing, "room": made_up.code, "finder": made_up.full_name, "day": made_up.day},
        (
            "{finder} found the {item} in room {room} on {day}.",
            "The {item} was lost on {day} in room {room}.",
            "On {day} {finder} found the {item}.",
            "Lost and found: {item}, room {room}, {day}.",
            "{finder} saw the {item} in room {room}.",
        ),
        ("In room {room} {finder} found the {item}.", "The {item} was found on {day} by {finder}."),
    ),
    Domain(
        {"user": made_up.word, "version": made_up.decimal, "error": number(100, 9999), "file": made_up.code},
        (
            "User {user} got error {error} in version {version}.",
            "Error {error} in file {file}, reported by user {user}.",
            "Version {version} fails with error {error}.",
            "{user} opened file {file} with version {version}.",
            "The user {user} reports error {error} for file {file}.",
        ),
        (
            "In version {version} user {user} saw error {error}.",
            "User {user} could not open file {file}: error {error}.",
        ),
    ),
    Domain(
        {"from": made_up.first_name, "to": made_up.first_name, "amount": made_up.price, "date": made_up.date},
        (
            "{from} sent {amount} dollars to {to} on {date}.",
            "{to} got {amount} dollars from {from}.",
            "On {date} {from} paid {to} {amount} euros.",
            "Transfer of {amount} dollars from {from} to {to}.",
            "{from} gave {to} ${amount}.",
        ),
        ("{from} transferred {amount} dollars to {to}.", "{to} received ${amount} from {from} on {date}."),
    ),
    Domain(
        {"player": made_up.full_name, "points": number(0, 9999), "level": number(1, 99), "rank": number(1, 500)},
        (
            "{player} has {points} points on level {level}.",
            "{player} is on rank {rank} with {points} points.",
            "Level {level}: {player}, {points} points.",
            "With {points} points {player} reached rank {rank}.",
            "{player} plays on level {level} and has rank {rank}.",
        ),
        ("{player} reached level {level} with {points} points.", "On rank {rank} is {player} with {points} points."),
    ),
)

DOMAINS_ZH = (
    Domain(
        {"姓名": made_up.name_zh, "年龄": number(1, 99), "城市": made_up.town_zh, "职业": made_up.job_zh},
        (
            "{姓名}今年{年龄}岁，住在{城市}。",
            "我叫{姓名}，{年龄}岁，是一名{职业}。",
            "{姓名}是{城市}的一名{职业}。",
            "{城市}的{姓名}今年{年龄}岁。",
            "{职业}{姓名}住在{城市}，今年{年龄}岁。",
        ),
        ("{姓名}住在{城市}，{年龄}岁。", "我是{姓名}，在{城市}当{职业}。"),
    ),
    Domain(
        {"商品": made_up.thing_zh, "数量": number(1, 999), "价格": made_up.price, "订单": made_up.code},
        (
            "订单{订单}：{数量}个{商品}，价格{价格}元。",
            "我想买{数量}个{商品}，每个{价格}元。",
            "{商品}的价格是{价格}元，我要{数量}个。",
            "订单{订单}里有{数量}个{商品}。",
        ),
        ("请给我{数量}个{商品}，订单号是{订单}。", "{商品}每个{价格}元，一共{数量}个。"),
    ),
    Domain(
        {"星期": made_up.day_zh, "时间": made_up.time, "房间": made_up.code, "主持人": made_up.name_zh},
        (
            "会议在{星期}{时间}，房间{房间}。",
            "{主持人}{星期}{时间}主持会议。",
            "{星期}的会议在{房间}房间，时间是{时间}。",
            "会议由{主持人}主持，{星期}{时间}在房间{房间}开始。",
        ),
        ("{星期}{时间}在房间{房间}开会。", "{主持人}在房间{房间}主持会议，时间{时间}。"),
    ),
    Domain(
        {"航班": made_up.code, "出发地": made_up.town_zh, "目的地": made_up.town_zh, "时间": made_up.time},
        (
            "航班{航班}从{出发地}到{目的地}，{时间}起飞。",
            "{时间}有一班从{出发地}飞往{目的地}的飞机。",
            "从{出发地}飞往{目的地}的航班是{航班}。",
            "{航班}在{时间}飞往{目的地}。",
        ),
        ("航班{航班}在{时间}从{出发地}起飞。", "{航班}航班从{出发地}飞到{目的地}。"),
    ),
    Domain(
        {"姓名": made_up.name_zh, "电话": made_up.phone, "邮箱": made_up.email},
        (
            "{姓名}的电话是{电话}，邮箱是{邮箱}。",
            "请联系{姓名}：{电话}。",
            "联系人{姓名}，邮箱{邮箱}，电话{电话}。",
            "有问题请给{姓名}写信：{邮箱}。",
        ),
        ("请打{电话}找{姓名}。", "{姓名}，电话{电话}，邮箱{邮箱}。"),
    ),
    Domain(
        {
            "城市": made_up.town_zh,
            "温度": number(-30, 45),
            "天气": made_up.among("晴 多云 小雨 大雨 下雪 有风 阴".split()),
        },
        ("{城市}今天{天气}，{温度}度。", "今天{城市}的天气是{天气}，温度{温度}度。", "{城市}：{天气}，{温度}度。"),
        ("今天{城市}{温度}度，{天气}。",),
    ),
)
MISSING = ("phone", "email", "color", "weight", "country", "language", "address", "height", "hobby", "gender")
MISSING_ZH = ("电话", "邮箱", "颜色", "国家", "地址", "语言", "爱好", "体重")
"""Fields that may be asked of any text that does not have them."""

BESIDE = (
    "It rained all day.", "Thank you very much.", "I hope you are well.", "That is good news.",
    "We are happy about it.", "Please answer soon.", "More will follow.",
    "Nobody knew this before.", "Best regards.", "It was a long day.",
    "Hello!", "Here is the news.", "As you know, we had a good year.", "Just a short note.", "Do not tell anybody.",
)  # fmt: skip
BESIDE_ZH = ("谢谢。", "请尽快回复。", "你好！", "这是好消息。", "今天很忙。")

INSTRUCTIONS = (
    "Extract {fields} as JSON: {text}",
    "Extract {fields} from this text as JSON: {text}",
    "Get {fields} as JSON from: {text}",
    "Give me {fields} as JSON: {text}",
    "Return JSON with {fields}: {text}",
    "Return {fields} as a JSON object: {text}",
    "Write {fields} as JSON. Text: {text}",
    "Read the text and return {fields} as JSON: {text}",
    "Find {fields} and answer in JSON: {text}",
    "JSON with {fields}: {text}",
    "{fields} as JSON, please: {text}",
    "Turn this into JSON with {fields}: {text}",
    "Convert to JSON ({fields}): {text}",
    "Make a JSON object with {fields} from this: {text}",
    "Take {fields} from the sentence and write JSON: {text}",
    "Fill a JSON object with {fields}: {text}",
    "Can you extract {fields} as JSON? {text}",
    "Please extract {fields} in JSON format: {text}",
    "What are {fields} here? Answer in JSON: {text}",
    "{text} Extract {fields} as JSON.",
    "{text} Give {fields} as JSON.",
    "{text} Return JSON with {fields}.",
    "{text} I want {fields} as a JSON object.",
    "{text}\nJSON with {fields}, please.",
    "Text: {text}\nFields: {fields}\nJSON:",
    'From the text "{text}" extract {fields} as JSON.',
)
INSTRUCTIONS_HELD_OUT = (
    "Pull {fields} out of this sentence into JSON: {text}",
    "I need {fields} in JSON from the following text: {text}",
    "{text} Please put {fields} into a JSON object.",
    "Read this and give back {fields} in JSON: {text}",
    "Could you write {fields} as a JSON object? {text}",
    "Show me JSON with {fields} for this: {text}",
)
INSTRUCTIONS_ZH = (
    "提取{fields}，用JSON回答：{text}",
    "请用JSON给出{fields}：{text}",
    "把{fields}写成JSON：{text}",
    "{text}请提取{fields}，输出JSON。",
    "从下面的文字中提取{fields}（JSON）：{text}",
    "{text}用JSON写出{fields}。",
    "找出{fields}，返回JSON：{text}",
    "JSON格式，{fields}：{text}",
)
INSTRUCTIONS_ZH_HELD_OUT = ("请从这句话里提取{fields}，返回JSON：{text}", "{text}请把{fields}整理成JSON。")


def listed(rng: random.Random, keys: list[str]) -> str:
    """The asked fields as people list them."""
    if not keys[0].isascii():
        return rng.choice(("、", "，")).join(keys[:-1]) + rng.choice(("和", "、")) + keys[-1]
    roll = rng.random()
    if roll < 0.15:
        keys = [f"the {key}" for key in keys]
    elif roll < 0.25:
        keys = [f'"{key}"' for key in keys]
    if rng.random() < 0.3:
        return ", ".join(keys)
    return ", ".join(keys[:-1]) + " and " + keys[-1]


def asked_keys(rng: random.Random, domain: Domain, given: list[str], is_chinese: bool) -> list[str]:
    """Two to four fields that the text gives, in any order; sometimes one that it does not give."""
    keys = rng.sample(given, min(len(given), rng.choice((2, 2, 3, 3, 4))))
    if rng.random() < SHARE_MISSING:
        others = [key for key in domain.fields if key not in given]
        if not others or rng.random() < 0.5:
            others = [key for key in (MISSING_ZH if is_chinese else MISSING) if key not in domain.fields]
        keys[-1 if len(keys) > 2 else len(keys) :] = [rng.choice(others)]
        rng.shuffle(keys)
    elif rng.random() < 0.5:
        keys.sort(key=list(domain.fields).index)
    return keys


def written(rng: random.Random, domain: Domain, split: Split, values: Mapping[str, Value]) -> tuple[str, list[str]]:
    """A text about the values, and the fields that it gives."""
    if split == "train" and rng.random() < SHARE_RECORDS:
        given = rng.sample(list(domain.fields), min(3, len(domain.fields)))
        return ", ".join(f"{key}: {values[key]}" for key in given), given
    template = wording(rng, split, domain.train, domain.held_out)
    return template.format_map(values), [key for key in domain.fields if f"{{{key}}}" in template]


def draw(rng: random.Random, split: Split) -> Exchange:
    """A text, the fields that are asked and their values as JSON."""
    is_chinese = rng.random() < SHARE_ZH
    domain = rng.choice(DOMAINS_ZH if is_chinese else DOMAINS)
    values = {key: make(rng, split) for key, make in domain.fields.items()}
    text, given = written(rng, domain, split, values)
    keys = asked_keys(rng, domain, given, is_chinese)
    if rng.random() < SHARE_BESIDE:
        beside = rng.choice(BESIDE_ZH if is_chinese else BESIDE)
        joint = "" if is_chinese else " "
        text = joint.join((beside, text) if rng.random() < 0.5 else (text, beside))
    if is_chinese:
        instruction = wording(rng, split, INSTRUCTIONS_ZH, INSTRUCTIONS_ZH_HELD_OUT)
    else:
        instruction = polite(rng, wording(rng, split, INSTRUCTIONS, INSTRUCTIONS_HELD_OUT))
    question = instruction.format(fields=listed(rng, keys), text=text)
    answer = {key: values[key] if key in given else None for key in keys}
    return Exchange("extraction", question, compact(answer), may_be_varied=False)


def polite(rng: random.Random, instruction: str) -> str:
    """The instruction with a small change that leaves the text as it is."""
    roll = rng.random()
    if roll < 0.1 and not instruction.startswith("{"):
        return instruction[0].lower() + instruction[1:]
    if roll < 0.18 and not instruction.startswith("{"):
        return rng.choice(BEFORE) + instruction[0].lower() + instruction[1:]
    if roll < 0.26 and instruction.endswith(("JSON.", "{fields}.", "object.")):
        return instruction[:-1]
    return instruction


def compact(values: Mapping[str, Value | None]) -> str:
    """JSON without spaces: every token costs time."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))
