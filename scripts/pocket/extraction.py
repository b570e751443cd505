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
            "Name: {name}; age: {age}; town: {city}",
            "Have you met {name}? They say the best {job} in {city}.",
            "hi, {name} here, {age}, currently based in {city}",
            "Our new {job} is called {name} and comes from {city}.",
            "{city} - The {job} {name} turns {age} today.",
            "Although only {age}, {name} already earns a living as {job}.",
            "Born and raised in {city}, {name} is now {age} and a well-known {job}.",
            "New member: {name}. Job: {job}. Home: {city}. Age: {age}.",
            "The {job}, whose name is {name} and who is {age} now, has a house in {city}.",
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
            "{product}, quantity {quantity}, unit price ${price}",
            "Could you ship {quantity} {product} this week? Our reference is {order}.",
            "A single one of the {product} costs ${price}, and we take {quantity}.",
            "Where are my {product}? The order number is {order} and I paid ${price}.",
            "New order ({order}): {product}, {quantity} pieces",
            "For {product} they charge ${price}; I still need {quantity} of them.",
            "{order} was confirmed: {quantity} x {product}, price {price}.",
            "hey, can i get {quantity} {product}? happy to pay ${price}",
            "After a long wait, {quantity} {product} were delivered under the order number {order}.",
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
            "Reminder: {title} meeting, {time}, room {room}",
            "Can you make it to the {title} meeting this {day}? It starts at {time}.",
            "Because room {room} was taken, the {title} meeting had to wait until {day}.",
            "Topic: {title}. Day: {day}. Start: {time}. Room: {room}.",
            "{title} meeting this {day}, everybody to room {room} please",
            "Your {title} meeting was put down for {time} in room {room}.",
            "hey, is {day} at {time} fine with you? I got us room {room}",
            "What we call the {title} meeting begins every {day} at {time}.",
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
            "{flight}: {from} to {to}, {time}, gate {gate}",
            "Passengers to {to} are asked to come to gate {gate} before {time}.",
            "I fly from {from} to {to} tomorrow; my flight number is {flight}.",
            "Gate {gate} is where {flight} to {to} starts at {time}.",
            "just landed in {to}, came from {from} on {flight}",
            "Is the {time} plane from {from} to {to} on time?",
            "Because of fog in {from}, flight {flight} was moved to gate {gate}.",
            "Destination: {to}. Origin: {from}. Gate: {gate}. Departure: {time}.",
            "We left {from} with {flight} at {time} and were happy to see {to} again.",
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
            "Dish: {dish}. Time: {minutes} min. Servings: {servings}.",
            "How about {dish} tonight? It only takes {minutes} minutes and has {calories} calories.",
            "Leave the {dish} in the oven for {minutes} minutes, then split it into servings: {servings} in all.",
            "A portion of {dish} comes to {calories} calories; the pot holds {servings} servings.",
            "my {dish} was ready after {minutes} min, {calories} calories per plate",
            "If you are hungry, try {dish}: {calories} calories on one plate.",
            "After {minutes} minutes on the stove, the {dish} is served.",
            "Servings: {servings}, calories: {calories}, name of the dish: {dish}",
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
            "Now hiring: {position} ({city}), ${salary}",
            "Would you like to be our next {position}? {company} pays ${salary}.",
            "{company} has an open position in {city}; whoever takes it earns {salary} a year.",
            "The job of {position} at {company} comes with a salary of {salary} dollars.",
            "saw that {company} wants another {position} in {city}, you should apply!",
            "Position: {position}. Employer: {company}. Salary: {salary}.",
            "Since the last {position} left, {company} has been searching all over {city}.",
            "For ${salary} I would move to {city} and start at {company} tomorrow.",
            "Wanted by {company}: {position}, place of work {city}.",
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
            "Pet: {name}. Kind: {animal}. Owner: {owner}.",
            "Has anyone seen {name}? That is the {animal} of our neighbor {owner}.",
            "{animal}, age {age}, name {name}, owner {owner}",
            "Every morning {owner} goes for a walk with {name} the {animal}.",
            "When {owner} came home, the {animal} {name} was already asleep.",
            "we just got a {animal}! {name} is already {age}",
            "Meet {name}: {animal}, age {age}, loves to play.",
            "The {animal} was given the name {name} by its owner {owner}.",
            "At the age of {age}, {name} is still a lively {animal}, says {owner}, who has to feed it.",
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
            "{author}: {title}. {year}, {pages} pages.",
            "Have you read {title}? I think {author} finished it in {year}.",
            "It took me a week to get through the {pages} pages of {title}.",
            "Title: {title}; author: {author}; pages: {pages}",
            "Ever since {year}, when {title} was printed, {author} has been famous.",
            "just bought {title} by {author}, {pages} pages, wish me luck",
            "The best novel of {year} was {title}.",
            "A long read at {pages} pages, {title} made {author} rich.",
            "First published: {year}. Written by: {author}. Length: {pages} pages.",
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
            "{day}: {home} vs {guest}, {home_goals}:{guest_goals}",
            "{home} was at home against {guest} this {day}.",
            "Did you watch {home} against {guest} on {day}? The score was {home_goals}:{guest_goals}!",
            "Home team {home}, guests from {guest}, goals {home_goals} to {guest_goals}",
            "The team of {guest} traveled to {home} on {day}, where the game ended with {home_goals}:{guest_goals}.",
            "Goals for the hosts {home}: {home_goals}. Goals for the guests {guest}: {guest_goals}.",
            "What a game! {home} {home_goals} - {guest_goals} {guest}",
            "When the guests of {guest} came to {home}, the fans sang all {day}.",
            "At the stadium of {home}, where {guest} was the guest, it was {home_goals}:{guest_goals} in the end.",
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
            "Invoice no. {invoice}, {date}, customer {customer}, total ${amount}",
            "Why has {customer} not paid ${amount} yet? The invoice was {invoice}.",
            "Dear {customer}, your bill {invoice} of {date} is still open.",
            "Bill to: {customer}. Amount: {amount}. Due: {date}.",
            "A total of ${amount} was charged to {customer} under invoice {invoice}.",
            "reminder: ${amount} for invoice {invoice}, please pay before {date}",
            "Since {date} we have been waiting for {customer} to settle the ${amount}.",
            "{customer} asked for a copy of {invoice}, the invoice that we wrote on {date}.",
            "Received with thanks: ${amount} from {customer} ({date}).",
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
            "Name: {name}. Town: {city}. Mail: {email}. Tel: {phone}.",
            "Do you know {name} in {city}? The address for mails is {email}.",
            "hey it's {name}, new number: {phone}",
            "If nobody answers at {phone}, try {email}.",
            "Our office in {city} is run by {name} (tel. {phone}).",
            "{phone} is the number of {name}, {email} the mail address.",
            "Mails for {name} should be sent to {email}.",
            "Yours, {name}\n{city}\n{phone}",
            "After the move to {city}, {name} kept the old phone number, {phone}, and the mail address {email}.",
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
            "Weather in {city}: {temperature} degrees, {sky}, wind: {wind} km/h",
            "Is it really {sky} in {city}? I heard that you have {temperature} degrees there.",
            "After a {sky} morning, {city} reached {temperature} degrees.",
            "{temperature} degrees and {wind} km/h of wind, that is {city} for you",
            "Forecast: {sky}, {temperature} degrees, winds up to {wind} km/h.",
            "It stays {sky}; people in {city} should be ready for gusts of {wind} km/h.",
            "greetings from {sky} {city}, the thermometer says {temperature} degrees",
            "A temperature of {temperature} degrees was measured in {city}.",
            "While the wind reaches {wind} km/h, it remains {sky} in {city}, with {temperature} degrees.",
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
            "{rooms}-room flat, {size} m2, ${rent} a month",
            "Looking for a home in {city}? We have one of {size} square meters for ${rent}.",
            "Rent: {rent}. Rooms: {rooms}. Size: {size} square meters. Town: {city}.",
            "My flat in {city} is small, just {size} square meters, but I pay only {rent} a month.",
            "The landlord asks for a monthly rent of {rent} for the {rooms}-room flat.",
            "moved to {city}! {rooms}-room place, rent is {rent}",
            "With its {size} square meters, the {rooms}-room flat is the largest in {city}.",
            "For ${rent} a month you get the {rooms}-room flat in the middle of {city}.",
            "To let in {city}: {size} sq m, number of rooms {rooms}, monthly rent {rent}.",
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
            "Because it weighs {weight} kg, parcel {parcel} will not get to {city} until {day}.",
            "Tracking {parcel}: now in {city}, delivery {day}.",
            "Has the parcel for {recipient} left {city} yet? Its number is {parcel}.",
            "To: {recipient}, {city} / weight: {weight} kg / arrival: {day}",
            "{recipient} is waiting in {city} for a box of {weight} kg with the number {parcel}.",
            "hi, {parcel} was dropped off at the door of {recipient} last {day}",
            "Our van brings {weight} kg to {city} on {day}; the parcel number is {parcel}.",
            "Parcel no. {parcel}; weight {weight} kg; to {recipient}",
            "When will {parcel} get to {city}? Somebody said {day}.",
            "It weighs {weight} kg and should be in {city} by {day}: parcel {parcel}.",
            "hey {recipient}, your parcel {parcel} is waiting in {city}",
            "Since {recipient} was not at home on {day}, parcel {parcel} was given to a neighbor.",
            "Ship to: {recipient}. Town: {city}. Day: {day}. Weight: {weight} kg.",
            "A box with the number {parcel} was brought to {recipient} this {day}.",
            "We packed {weight} kg for {recipient}, who moved to {city}.",
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
            "Asking price {price} dollars: {model}, one owner, built {year}.",
            "Would anyone pay {price} dollars for a {model} painted {color}?",
            "The {model} left the factory in {year} and was painted {color} from the start.",
            "{year} {model} in {color}, yours for ${price}",
            "Paid {price} euros for a {model} that was made in {year}.",
            "Wanted: any {model} in {color}, price {price} dollars.",
            "Although it dates from {year}, the {color} {model} still brings {price} dollars.",
            "Model: {model}. Color: {color}. Price: ${price}.",
            "Is the {color} {model} still there? I would pay {price} dollars.",
            "built in {year}, painted {color}, yours for ${price}",
            "Somebody paid ${price} for this {model}, although it was made in {year}.",
            "For ${price} the {model} is a bargain, and {color} is my favorite color.",
            "In {year} they only made the {model} in {color}.",
            "Used car: {model}, year {year}, asking price {price}.",
            "The {model} that was stolen is {color}, dates from {year} and is worth ${price}.",
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
            "Only a few seats at {price} dollars are left for {event} in {place}.",
            "Are you free on {date}? They play {event} in {place}!",
            "Live on stage in {place}: {event}. Entry: ${price}.",
            "What: {event} / When: {date} / Where: {place}",
            "Whoever wants to hear {event} must travel to {place} and pay {price} euros.",
            "The show in {place} was moved to {date}, and seats are now {price} dollars.",
            "For {price} dollars you get into {event}, which starts on {date}.",
            "Event: {event}. Where: {place}. When: {date}. Entry: ${price}.",
            "Are you coming to {event}? It is in {place}, and the ticket is only ${price}.",
            "got tickets for {event}!! {date}, can't wait",
            "Nobody in {place} wants to miss {event}, which starts on {date}.",
            "{date} - {event} - {place}",
            "Admission to {event} is ${price} if you pay before {date}.",
            "After years away, {event} is coming back to {place} on {date} for ${price}.",
            "The show called {event}, planned for {date}, had to be moved to {place}.",
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
            "Reservation: {guest}, {day}, party of {people}.",
            "Could you keep a table free at {time}? There will be {people} of us and my name is {guest}.",
            "Number of seats: {people}, name: {guest}, arrival: {time}.",
            "Dinner under the name {guest} on {day} from {time}, please.",
            "A party of {people} was booked in for {time} on {day}.",
            "{guest} called to say that the group of {people} will be here on {day}, not later than {time}.",
            "The reservation of {guest} was changed to {day} at {time}.",
            "Booking: {guest}, party of {people}, {day}",
            "Hello, this is {guest}. Do you have a table on {day} at {time}?",
            "Name: {guest}. People: {people}. Day: {day}. Time: {time}.",
            "For {day} we reserved a table under the name {guest}; they will arrive at {time}.",
            "table for {people}, {time}, it's for {guest}",
            "A group of {people} is expected at {time} this {day}.",
            "Number of guests: {people}. Booked by {guest} for {time}.",
            "If it is possible, {guest} would like to move the dinner for {people} to {day}, {time}.",
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
            "Report card of {student}: {subject} {grade}.",
            "After the {subject} exam {teacher} wrote {grade} points on the paper of {student}.",
            "{grade} points: that is what {student} earned in the {subject} test.",
            "The teacher, {teacher}, says that {student} should practice more {subject}.",
            "Student: {student}; teacher: {teacher}; grade: {grade}",
            "Who marked the {subject} test of {student}? It was {teacher}, with {grade} points.",
            "I study {subject} with {teacher}, and my last grade was {grade}.",
            "Student: {student}. Teacher: {teacher}. Subject: {subject}.",
            "{subject} test: {student} {grade}/100",
            "How did {student} get a grade of {grade} in {subject}?",
            "Thanks to the lessons of {teacher}, {student} is now good at {subject}.",
            "my teacher {teacher} gave me a {subject} grade of {grade}",
            "A grade of {grade} was given to {student} by the teacher, {teacher}.",
            "Report for {student}: grade {grade}, {subject}, signed by the teacher {teacher}.",
            "When {teacher} returned the {subject} exams, {student} saw the grade: {grade}.",
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
            "Have you heard {song}? {artist} released it in {year}.",
            "Track: {song} / artist: {artist} / length: {minutes} min",
            "The radio just played {song}, a tune of {year}, sung by {artist}.",
            "Written by {artist}, {song} became famous in {year}.",
            "Released in {year}, {song} runs for {minutes} min.",
            "My favorite of {artist} is {song}, although it goes on for {minutes} min.",
            "{artist} - {song} [{year}]",
            "It was in {year} that the world first heard {song} by {artist}.",
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
            "For its {members} members, team {team} receives {budget} dollars.",
            "{leader} runs {team}, a team of {members}.",
            "New boss for team {team}: {leader} takes over a group of {members}.",
            "With only {budget} dollars, {leader} has to pay a team of {members}.",
            "team: {team} | leader: {leader} | budget: {budget}",
            "How can {leader} lead {members} people in team {team}?",
            "The {members} members of {team} chose {leader} as their leader.",
            "{budget} dollars were granted to team {team}, which is run by {leader}.",
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
            "Attention please: {train} to {to} will now arrive on platform {platform}.",
            "Passengers from {from} arrived {delay} min late, since train {train} had to wait.",
            "I am sitting in the {train} from {from} and will reach {to} {delay} min late.",
            "{from} -> {to}, train {train}, platform {platform}",
            "To get from {from} to {to}, go to platform {platform}.",
            "{train} | destination {to} | delayed by {delay} min",
            "Departing {from}: {train}, bound for {to}, expected delay {delay} min.",
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
            "Appointment confirmed: {patient}, {date}, {time}.",
            "Dear {patient}, your appointment with Dr. {doctor} is on {date}.",
            "Can {patient} come to doctor {doctor} at {time} instead?",
            "Dr. {doctor} will examine {patient} on {date}; please be there at {time}.",
            "Reminder for {patient}: checkup on {date} at {time}.",
            "Since {doctor} is the only doctor on duty on {date}, {patient} has to wait until {time}.",
            "{date}, {time}: operation of {patient} by Dr. {doctor}",
            "The next free hour of Dr. {doctor} is {date}, {time}.",
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
            "Somebody left the {item} in {room} on {day}; {finder} picked it up.",
            "Finder: {finder}; item: {item}; day: {day}",
            "Is the {item} yours? {finder} brought it in on {day}.",
            "hey all, {finder} has the {item} that was lying in room {room}",
            "After class on {day}, the {item} turned up in room {room}.",
            "Thanks to {finder}, who searched room {room}, the {item} is no longer missing.",
            "The {item} was handed in by {finder}, who had seen it under a seat in {room}.",
            "{day}, room {room}: {item} found",
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
            "[{user}] error {error} while reading {file}",
            "Bug report from {user}: version {version} crashes on file {file}.",
            "Since the update to {version}, {user} keeps getting error {error}.",
            "Why does {file} give me error {error} in version {version}?",
            "File {file} could be read by {user} only after going back to version {version}.",
            "log: user={user} version={version} error={error}",
            "Error code {error} was shown to {user}, who runs version {version}.",
            "{user} writes that {file} cannot be saved; the program is version {version} and shows error {error}.",
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
            "Payment: {amount} dollars, from: {from}, date: {date}.",
            "{to} thanks {from} for the {amount} dollars.",
            "Did {from} already wire the {amount} euros to {to}?",
            "On {date} the {amount} dollars of {from} arrived in the account of {to}.",
            "From: {from} / To: {to} / Amount: {amount} / Date: {date}",
            "{from} owes {to} {amount} dollars and will pay by {date}.",
            "Hi {to}, you will get {amount} dollars from me on {date}. Yours, {from}",
            "Since {date}, {to} has been waiting for {amount} dollars from {from}.",
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
            "Congratulations, {player}! You are now on level {level}, rank {rank}.",
            "#{rank} {player} - {points} points",
            "{player} dropped to rank {rank} after losing on level {level}.",
            "Level {level} was finished by {player}; points so far: {points}.",
            "player: {player}, rank: {rank}, points: {points}",
            "Who holds rank {rank}? It is {player}, still on level {level}.",
            "Although {player} collected {points} points, that is only enough for rank {rank}.",
            "I have {points} points, play on level {level} and my rank is {rank}.",
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
            "姓名：{姓名}，年龄：{年龄}，职业：{职业}",
            "来自{城市}的{姓名}是个{年龄}岁的{职业}。",
            "大家好，我来自{城市}，名字是{姓名}，职业是{职业}。",
            "你认识{城市}的{职业}{姓名}吗？",
            "那位{年龄}岁的{职业}名叫{姓名}。",
            "{城市}有一位{职业}，今年{年龄}岁，名字叫{姓名}。",
            "{姓名}，{年龄}岁，{城市}人",
            "因为在{城市}找到了{职业}的工作，{姓名}搬了家。",
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
            "订单号：{订单}，商品：{商品}，数量：{数量}",
            "客户订了{数量}个{商品}，单价{价格}元。",
            "{订单}这个订单买的是{商品}，单价是{价格}元。",
            "店里还有{数量}个{商品}，只卖{价格}元。",
            "你好，我的订单{订单}应该有{数量}个{商品}，怎么还没到？",
            "如果{商品}降到{价格}元，我们就订{数量}个。",
            "{商品} × {数量}，订单{订单}",
            "仓库已经把{数量}个{商品}发出，订单编号{订单}。",
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
            "别忘了{星期}的会：{房间}房间，{时间}开始。",
            "会议通知：时间{时间}，房间{房间}，主持人{主持人}。",
            "这次会议的主持人是{主持人}，日子定在{星期}。",
            "因为{主持人}要主持会议，{星期}房间{房间}不能用。",
            "{时间}的会改到{星期}了，还是在房间{房间}。",
            "{星期}谁主持？是{主持人}，{时间}开始。",
            "主持人{主持人}请大家{时间}到房间{房间}来。",
            "开会地点是房间{房间}，时间是{星期}的{时间}。",
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
            "出发地：{出发地}，目的地：{目的地}，时间：{时间}",
            "去{目的地}的乘客请注意，{航班}将于{时间}起飞。",
            "我要坐{时间}的飞机离开{出发地}，去{目的地}。",
            "{时间}的飞机由{出发地}出发，终点是{目的地}，航班号{航班}。",
            "请问飞往{目的地}的{航班}是{时间}起飞吗？",
            "{出发地}→{目的地}，航班{航班}",
            "由于{出发地}下大雪，飞往{目的地}的{航班}取消了。",
            "我在{出发地}机场等{航班}，{时间}才能走。",
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
            "我是{姓名}，有事可以拨我的号码{电话}。",
            "发邮件到{邮箱}就能找到{姓名}。",
            "我的邮箱是{邮箱}，手机号是{电话}。",
            "{姓名}换号码了，新的号码是{电话}。",
            "如果{电话}没人接，就写信到{邮箱}。",
            "这是{姓名}的名片，上面写着{电话}和{邮箱}。",
            "你有{姓名}的邮箱吗？有，是{邮箱}。",
            "邮箱：{邮箱}；电话：{电话}；姓名：{姓名}",
        ),
        ("请打{电话}找{姓名}。", "{姓名}，电话{电话}，邮箱{邮箱}。"),
    ),
    Domain(
        {
            "城市": made_up.town_zh,
            "温度": number(-30, 45),
            "天气": made_up.among("晴 多云 小雨 大雨 下雪 有风 阴".split()),
        },
        (
            "{城市}今天{天气}，{温度}度。",
            "今天{城市}的天气是{天气}，温度{温度}度。",
            "{城市}：{天气}，{温度}度。",
            "我们要去{城市}，听说那里{天气}，大约{温度}度。",
            "现在{温度}度，{天气}，我在{城市}。",
            "城市：{城市}，温度：{温度}，天气：{天气}",
            "你那边多少度？{城市}这里是{温度}度。",
            "明天{城市}的天气会是{天气}。",
            "听说{城市}{天气}，气温{温度}度，是真的吗？",
            "我刚到{城市}，外面{温度}度。",
            "气温{温度}度，天气{天气}，这就是今天的{城市}。",
            "因为{城市}的天气是{天气}，我们不出门了。",
        ),
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
    "Fields: {fields}\nText: {text}\nJSON:",
    "Input: {text}\nOutput: JSON with {fields}",
    "{text}\n---\nReturn only JSON, keys: {fields}",
    "{text}\nAs JSON ({fields}):",
    "Parse {fields} from this message and output JSON: {text}",
    "Parse this text. Answer with JSON that holds {fields}. {text}",
    "Collect {fields} in a JSON object. Here is the text: {text}",
    "Task: {fields} to JSON. Text: {text}",
    "Let me have {fields} as JSON; the text is: {text}",
    "Look for {fields} below and reply with JSON only.\n{text}",
    "Summarize the text as JSON with the keys {fields}: {text}",
    "Which values does the text have for {fields}? Reply in JSON: {text}",
    "Do you see {fields}? Then list them as JSON. {text}",
    "Can we have {fields} of this note as JSON? {text}",
    "Create JSON from the note, with {fields}: {text}",
    "Identify {fields} in this passage, JSON only: {text}",
    "Output a JSON object that contains {fields} for: {text}",
    "Structure this as JSON, keys {fields}: {text}",
    "Here is a text: {text} What are {fields}? JSON, please.",
    "Someone wrote: {text} Save {fields} as JSON.",
    "Given the text below, produce JSON with {fields}.\n\n{text}",
    "For our database we want {fields} as JSON. The entry: {text}",
    "Only {fields}, in JSON: {text}",
    "{fields}? As JSON! {text}",
    "{fields} -> JSON: {text}",
    "{text} Now write {fields} in JSON format.",
    "{text} From this, make JSON with {fields}.",
    "{text} The answer should be a JSON object with {fields}.",
    "{text} Which are {fields}? Use JSON.",
    '"{text}" - get {fields} from it, as JSON',
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
    "文本：{text}\n字段：{fields}\nJSON：",
    "字段：{fields}\n内容：{text}\n请输出JSON。",
    "{text}\n以上内容中的{fields}是什么？用JSON格式回答。",
    "阅读这段话，用JSON列出{fields}：{text}",
    "帮我把{fields}抽出来，要JSON格式：{text}",
    "能不能用JSON告诉我{fields}？{text}",
    "根据下文生成一个JSON，包含{fields}：{text}",
    "我只要{fields}，JSON就行：{text}",
    "“{text}”这里的{fields}分别是什么？请写JSON。",
    "{text}我需要{fields}的JSON。",
    "{text}只输出JSON，键为{fields}。",
    "已知：{text}输出含有{fields}的JSON对象。",
    "将以下信息转换为JSON，保留{fields}：{text}",
    "有人写道：{text}麻烦以JSON形式给我{fields}。",
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
