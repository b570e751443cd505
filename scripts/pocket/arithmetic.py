"""Arithmetic to three digits: the answer is the working of working.py and then one sentence with the result.

`thought` is the working and `answer` is f"{thought} {result}", so that the result alone is answer[len(thought) + 1:].
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import working
from exchange import Exchange, Split, fitting, wording


@dataclass(frozen=True)
class Task:
    """One operation on two numbers, in the order in which they are written."""

    a: int
    sign: str
    b: int

    @property
    def key(self) -> str:
        """Says which values these are: 3+5 and 5+3 are the same."""
        a, b = sorted((self.a, self.b)) if self.sign in "+×" else (self.a, self.b)
        return f"{a}{self.sign}{b}"

    @property
    def result(self) -> int:
        """What comes out; divisions are exact."""
        match self.sign:
            case "+":
                return self.a + self.b
            case "-":
                return self.a - self.b
            case "×":
                return self.a * self.b
        return self.a // self.b

    @property
    def working(self) -> str:
        """The steps on paper."""
        steps = {"+": working.add, "-": working.subtract, "×": working.multiply, "÷": working.divide}
        return steps[self.sign](self.a, self.b)


SIGNS = {
    "+": ("+", "+", "plus"),
    "-": ("-", "-", "minus"),
    "×": ("×", "*", "x", "times", "multiplied by"),
    "÷": ("/", "÷", ":", "divided by"),
}
SIGNS_ZH = {"+": ("+", "加", "加上"), "-": ("-", "减", "减去"), "×": ("×", "*", "乘以", "乘"), "÷": ("÷", "/", "除以")}

FRAMES = (
    "What is {}?",
    "What is {}?",
    "{}",
    "{}",
    "{} =",
    "{} = ?",
    "What is {}?",
    "What is {}?",
    "What's {}?",
    "How much is {}?",
    "Compute {}.",
    "Calculate {}.",
    "{} = ?",
    "{} =",
    "{}",
    "{}?",
    "Work out {}.",
    "Evaluate {}.",
    "Solve {}.",
    "What does {} equal?",
    "What does {} make?",
    "What do you get for {}?",
    "Can you compute {}?",
    "Can you tell me what {} is?",
    "Could you calculate {}?",
    "Could you work out {} for me?",
    "Please compute {}.",
    "Please calculate {} for me.",
    "Tell me what {} is.",
    "Tell me the result of {}.",
    "Give me the result of {}.",
    "Give me {}.",
    "I need the value of {}.",
    "I want to know what {} is.",
    "Do you know what {} is?",
    "What is the result of {}?",
    "What is the answer to {}?",
    "Find {}.",
    "Do the math: {}.",
    "Let me know what {} gives.",
    "How much do I get for {}?",
    "{} is how much?",
    "So what is {}?",
    "And what's {}?",
    "Now, how much is {}?",
    "Quick question: what is {}?",
    "Quick one: {}?",
    "Hey, what's {}?",
    "Hi, could you help me with {}?",
    "Hello! What does {} come to?",
    "{}, please.",
    "{}, what does that make?",
    "{}, what's the answer?",
    "Answer this: {}",
    "Problem: {}",
    "Exercise: {}",
    "Task: {}",
    "Question: {}?",
    "Homework: {}",
    "Q: {}",
    "Result of {}?",
    "The result of {}, please.",
    "Answer to {}?",
    "What number is {}?",
    "What number do I write for {}?",
    "Which number is {}?",
    "Which number is the same as {}?",
    "Which number comes out of {}?",
    "What comes out of {}?",
    "What is {} worth?",
    "What does {} amount to?",
    "What does {} work out to?",
    "What will {} be?",
    "What would {} be?",
    "What should {} come out as?",
    "What answer does {} have?",
    "How much does {} make?",
    "How much would {} be?",
    "How do I work out {}?",
    "How do you calculate {}?",
    "How would you solve {} on paper?",
    "Show me how to calculate {}.",
    "Show the steps for {}.",
    "Show your working for {}.",
    "Solve {} step by step.",
    "Work through {} and give me the answer.",
    "Walk me through {}.",
    "Explain step by step how to get {}.",
    "Determine {}.",
    "Figure out {}.",
    "Try {}.",
    "Now do {}.",
    "Next: {}",
    "Next one: {}.",
    "Simplify {}.",
    "Calculate the following: {}",
    "Compute the result: {}",
    "Help me with {}.",
    "Help me figure out {}, please.",
    "I can't figure out {}.",
    "I'm stuck on {}.",
    "I'm looking for {}.",
    "I forgot what {} is.",
    "I wonder what {} is.",
    "I was asked for {} and have no calculator.",
    "I'd like to have {}, please.",
    "I am not sure what {} gives.",
    "My homework asks for {}.",
    "My teacher wants to know what {} is.",
    "My daughter asks me what {} is.",
    "My calculator is broken, so what is {}?",
    "Without a calculator, what is {}?",
    "In your head: {}?",
    "The sheet says {}, so what goes in the blank?",
    "The next exercise is {}.",
    "The problem on the board is {}.",
    "Fill in the blank: {} = ___",
    "Complete: {} = ...",
    "{} = x. What is x?",
    "x = {}. What is x?",
    "{} = ___",
    "Let x be {}. Which number is x?",
    "Mental arithmetic: {}",
    "Check this for me: what does {} come to?",
    "Would you tell me what {} comes to?",
    "Would you mind computing {}?",
    "May I ask what {} is?",
    "Any idea what {} comes to?",
    "Are you able to work out {}?",
    "Do me a favor and compute {}.",
    "Be so kind as to calculate {}.",
    "Math question: {}",
    "Maths: {}",
    "Calc {}",
)
FRAMES_HELD_OUT = (
    "Find the value of {}.",
    "What is the value of {}?",
    "Can you calculate {} for me?",
    "Could you tell me the result of {}?",
    "What do I get for {}?",
    "Please work out {}.",
    "I need to know what {} is.",
    "{} equals what?",
)
FRAMES_ZH = (
    "{}等于多少？",
    "{}是多少？",
    "{}等于多少？",
    "{}等于多少？",
    "{}是多少？",
    "{}等于几？",
    "{}=?",
    "计算{}。",
    "请计算{}。",
    "算一下{}。",
    "帮我算一下{}。",
    "请问{}等于多少？",
    "{}的结果是多少？",
    "求{}。",
    "你知道{}等于多少吗？",
    "告诉我{}是多少。",
    "{}",
    "{}？",
    "{}=",
    "{}得多少？",
    "{}得几？",
    "{}结果？",
    "{}应该是多少？",
    "{}怎么算？",
    "{}算出来是多少？",
    "{}一共是多少？",
    "{}，答案呢？",
    "{}的得数是多少？",
    "{}的值是几？",
    "计算：{}",
    "计算一下{}，谢谢。",
    "算算{}。",
    "口算：{}",
    "题目：{}",
    "求解{}。",
    "求{}的结果。",
    "请计算：{}",
    "请问{}得多少？",
    "请告诉我{}的答案。",
    "请写出{}的计算过程。",
    "请一步一步计算{}。",
    "你能算出{}吗？",
    "你会算{}吗？",
    "能不能帮我算算{}？",
    "可以算一下{}吗？",
    "麻烦算一下{}。",
    "老师问{}等于几，怎么回答？",
    "这道题怎么做：{}",
    "下一题：{}",
    "作业里有一题：{}，答案是多少？",
    "我算不出{}，结果是几？",
    "我忘了{}是多少。",
    "不用计算器，{}等于多少？",
    "快速回答：{}等于几？",
    "谁知道{}是几？",
    "填空：{}=（ ）",
    "设x={}，x是多少？",
    "那{}呢？",
)
FRAMES_ZH_HELD_OUT = ("请算一下{}。", "{}的结果是什么？", "帮我计算{}。", "我想知道{}等于多少。")

PHRASES = {
    "+": (
        "the sum of {a} and {b}",
        "the total of {a} and {b}",
        "{b} added to {a}",
        "{a} and {b} together",
        "{a} and {b} combined",
        "{a} and {b} added up",
        "{a} and {b} added together",
        "{a} increased by {b}",
        "{a} raised by {b}",
        "{a} with {b} added to it",
        "{b} more than {a}",
        "{b} on top of {a}",
        "the sum {a} and {b} make",
        "the number that is {b} more than {a}",
        "the result of adding {b} to {a}",
        "the result of adding {a} and {b}",
        "the combined value of {a} and {b}",
        "the number {b} above {a}",
    ),
    "-": (
        "the difference between {a} and {b}",
        "{b} subtracted from {a}",
        "{a} less {b}",
        "{b} less than {a}",
        "{a} decreased by {b}",
        "{a} reduced by {b}",
        "{a} lowered by {b}",
        "{a} take away {b}",
        "{a} with {b} taken off",
        "{a} after subtracting {b}",
        "{b} taken from {a}",
        "{b} taken away from {a}",
        "{b} deducted from {a}",
        "{b} fewer than {a}",
        "the result of subtracting {b} from {a}",
        "the result of taking {b} away from {a}",
        "the number that is {b} less than {a}",
        "the number {b} below {a}",
        "the difference when {b} is subtracted from {a}",
    ),
    "×": (
        "the product of {a} and {b}",
        "{a} multiplied with {b}",
        "the product of {b} and {a}",
        "{a} and {b} multiplied",
        "{a} and {b} multiplied together",
        "the product of the numbers {a} and {b}",
        "the product {a} and {b} make",
        "the result of multiplying {a} by {b}",
        "the result of multiplying {a} and {b}",
        "the result of {a} times {b}",
        "the area of a rectangle {a} long and {b} wide",
        "the product when {a} is multiplied by {b}",
    ),
    "÷": (
        "the quotient of {a} and {b}",
        "{a} over {b}",
        "one part when {a} is cut into {b} equal parts",
        "{a} split evenly by {b}",
        "{a} shared equally by {b}",
        "the ratio of {a} to {b}",
        "the number of times {b} goes into {a}",
        "the number of times {b} fits into {a}",
        "the quotient when {a} is divided by {b}",
        "the result of dividing {a} by {b}",
        "the result of {a} over {b}",
        "the number that gives {a} when multiplied by {b}",
        "the fraction {a} over {b}",
        "the number you multiply by {b} to get {a}",
    ),
}
ORDERS = {
    "+": (
        "Add {b} to {a}.",
        "Add {a} and {b}.",
        "Add up {a} and {b}.",
        "Sum {a} and {b}.",
        "Add {b} to the number {a}.",
        "Add {a} to {b}.",
        "Add {b} onto {a}.",
        "Add together {a} and {b}.",
        "Add the numbers {a} and {b}.",
        "Add the two numbers {a} and {b} together.",
        "Combine {a} and {b} into one sum.",
        "Increase {a} by {b}.",
        "Raise {a} by {b}.",
        "Start with {a} and add {b}.",
        "Start at {a} and count up by {b}.",
        "Take {a} and add {b} to it.",
        "Take the sum of {a} and {b}.",
        "Find the sum of {a} and {b}.",
        "Find the total of {a} and {b}.",
        "Form the sum of {a} and {b}.",
        "Count {a} and {b} together.",
        "Make {a} larger by {b}.",
    ),
    "-": (
        "Subtract {b} from {a}.",
        "Take {b} from {a}.",
        "Take {b} away from {a}.",
        "Take away {b} from {a}.",
        "Subtract {b} from the number {a}.",
        "Deduct {b} from {a}.",
        "Remove {b} from {a}.",
        "Knock {b} off {a}.",
        "Take {b} off {a}.",
        "Decrease {a} by {b}.",
        "Reduce {a} by {b}.",
        "Lower {a} by {b}.",
        "Make {a} smaller by {b}.",
        "Start with {a} and subtract {b}.",
        "Start at {a} and count down by {b}.",
        "Take {a} and subtract {b} from it.",
        "Take {a} and remove {b}.",
        "Subtract the number {b} from the number {a}.",
        "Find the difference between {a} and {b}.",
        "Work out the difference of {a} and {b}.",
        "Find the number that is {b} less than {a}.",
        "Go back {b} from {a}.",
    ),
    "×": (
        "Multiply {a} by {b}.",
        "Multiply {a} with {b}.",
        "Multiply {a} and {b}.",
        "Multiply the number {a} by {b}.",
        "Take {a} times {b}.",
        "Multiply {a} times {b}.",
        "Multiply together {a} and {b}.",
        "Multiply the two numbers {a} and {b} together.",
        "Multiply {b} by {a}.",
        "Take {a} and multiply it by {b}.",
        "Take {a} and multiply by {b}.",
        "Start with {a} and multiply it by {b}.",
        "Take the product of {a} and {b}.",
        "Find the product of {a} and {b}.",
        "Form the product of {a} and {b}.",
        "Work out the product of {a} and {b}.",
        "Scale {a} by {b}.",
        "Scale {a} by a factor of {b}.",
        "Calculate {a} times {b}.",
    ),
    "÷": (
        "Divide {a} by {b}.",
        "Divide the number {a} by {b}.",
        "Split {a} into {b} equal parts.",
        "Cut {a} in {b} equal parts.",
        "Divide {a} evenly by {b}.",
        "Divide the number {a} by the number {b}.",
        "Take {a} and divide it by {b}.",
        "Take {a} and divide by {b}.",
        "Start with {a} and divide it by {b}.",
        "Split {a} equally by {b}.",
        "Split {a} evenly among {b}.",
        "Split up {a} into {b} equal shares.",
        "Share {a} equally between {b}.",
        "Break {a} into {b} equal pieces.",
        "Find the quotient of {a} and {b}.",
        "Work out the quotient of {a} and {b}.",
        "Count how often {b} fits into {a}.",
        "Count how many times {b} goes into {a}.",
        "Find out how many times {b} fits into {a}.",
    ),
}
ORDERS_BEFORE = (
    *("",) * 12,  # as they are, a quarter of them
    *("Please ", "Can you ", "Could you ") * 2,
    "I want you to ",
    "I need you to ",
    "I'd like you to ",
    "I would like you to ",
    "Your task is to ",
    "Your job: ",
    "Now ",
    "Now please ",
    "Next, ",
    "Just ",
    "Let's ",
    "Let us ",
    "Help me to ",
    "You have to ",
    "You should ",
    "Try to ",
    "Quickly ",
    "First, ",
    "For my homework I must ",
    "The exercise says: ",
    "Exercise: ",
    "Task: ",
    "Let me see you ",
    "It is time to ",
    "Without a calculator, ",
    "In your head, ",
    "Step by step, ",
)
ORDERS_HELD_OUT = {
    "+": ("What do I get if I add {b} to {a}?", "Sum up {a} and {b}."),
    "-": ("What do I get if I subtract {b} from {a}?", "Take {b} away from the number {a}."),
    "×": ("What do I get if I multiply {a} by {b}?", "Multiply the number {a} with {b}."),
    "÷": ("What do I get if I divide {a} by {b}?", "Divide the number {a} into {b} equal parts."),
}
IFS = (
    "What is it if I {}?",
    "What happens if I {}?",
    "What comes out if I {}?",
    "What do you get when you {}?",
    "How much is it when I {}?",
    "If I {}, what do I get?",
    "What is the result if I {}?",
    "What is the answer when I {}?",
    "What number do you end up with if you {}?",
    "What number comes out when I {}?",
    "What number results when you {}?",
    "What will I have when I {}?",
    "What do we have once we {}?",
    "What does it make when you {}?",
    "What would the answer be if you had to {}?",
    "Which number do you reach when you {}?",
    "Which number is the result when I {}?",
    "How much is it if you {}?",
    "How much will it be after I {}?",
    "Suppose I {}. What is the result?",
    "Suppose you {}. Which number is it?",
    "Say I {}. How much does that make?",
    "Let's say we {}. What is the answer?",
    "When I {}, which number comes out?",
    "When you {}, what is the result?",
    "If you {}, how much is it?",
    "If we {}, which number is it?",
    "After I {}, what number is there?",
    "I have to {}. What is the result?",
    "I want to {}, so what is the answer?",
    "I was told to {}. What should come out?",
    "We {}. What is the result?",
    "The task is to {}. What is the answer?",
    "My homework says to {}; what comes out?",
    "Tell me what happens when you {}.",
    "Tell me the result when I {}.",
)
ORDERS_ZH = {
    "+": (
        "{a}与{b}的和是多少？",
        "{a}和{b}相加等于多少？",
        "把{a}和{b}加起来。",
        "求{a}与{b}的和。",
        "{a}加{b}，和是几？",
        "{a}和{b}加起来是多少？",
        "{a}与{b}合起来是几？",
        "{a}再加上{b}，得多少？",
        "{a}增加{b}后是多少？",
        "比{a}多{b}的数是多少？",
        "把{b}加到{a}上，得几？",
        "两个加数是{a}和{b}，和是多少？",
        "算出{a}和{b}的总和。",
        "一个数是{a}，另一个数是{b}，它们的和是几？",
        "在{a}的基础上加{b}。",
        "{a}和{b}一共是多少？",
    ),
    "-": (
        "{a}与{b}的差是多少？",
        "从{a}里减去{b}等于多少？",
        "从{a}中减去{b}。",
        "求{a}与{b}的差。",
        "{a}减少{b}后是多少？",
        "{a}去掉{b}，得多少？",
        "{a}减掉{b}是几？",
        "{a}和{b}相减得多少？",
        "比{a}少{b}的数是多少？",
        "被减数是{a}，减数是{b}，差是几？",
        "把{a}减去{b}，结果是几？",
        "用{a}减{b}，得多少？",
        "{a}里面拿掉{b}，结果是多少？",
        "在{a}的基础上减{b}。",
        "算出{a}减{b}的差。",
        "从{a}里扣掉{b}是多少？",
    ),
    "×": (
        "{a}与{b}的积是多少？",
        "{a}和{b}相乘等于多少？",
        "把{a}和{b}相乘。",
        "求{a}与{b}的积。",
        "{a}的{b}倍是多少？",
        "把{a}乘以{b}，得几？",
        "{a}和{b}乘起来是多少？",
        "{b}个{a}相加是多少？",
        "两个因数是{a}和{b}，积是多少？",
        "用{a}乘{b}，得多少？",
        "算出{a}和{b}的乘积。",
        "{a}扩大到原来的{b}倍是几？",
        "长是{a}、宽是{b}的长方形面积是多少？",
        "{a}与{b}两个数的乘积是几？",
        "一个数是{a}，另一个数是{b}，它们的积是几？",
        "计算{a}和{b}相乘的结果。",
    ),
    "÷": (
        "{a}与{b}的商是多少？",
        "把{a}平均分成{b}份，每份是多少？",
        "用{b}去除{a}等于多少？",
        "求{a}与{b}的商。",
        "{a}里面有几个{b}？",
        "{a}是{b}的几倍？",
        "把{a}除以{b}，得几？",
        "用{a}除以{b}，商是多少？",
        "被除数是{a}，除数是{b}，商是几？",
        "{a}平均分成{b}份，一份是几？",
        "把{a}分成相等的{b}份，一份是多少？",
        "什么数乘以{b}等于{a}？",
        "算出{a}除以{b}的商。",
        "{a}可以分成多少个{b}？",
        "计算{a}除以{b}的结果。",
        "{b}乘几等于{a}？",
    ),
}
ORDERS_ZH_HELD_OUT = {
    "+": ("请求{a}与{b}的和。", "{a}和{b}的和等于多少？"),
    "-": ("请求{a}与{b}的差。", "从{a}中减去{b}等于多少？"),
    "×": ("请求{a}与{b}的积。", "{a}和{b}的积等于多少？"),
    "÷": ("请求{a}与{b}的商。", "{a}和{b}的商等于多少？"),
}

THINGS = (
    "apples", "books", "coins", "stamps", "cards", "pens", "eggs", "marbles", "shells", "tickets", "photos", "stickers",
    "balls", "cookies", "nuts", "stones", "keys", "bottles", "chairs", "flowers", "trees", "sheep", "birds", "fish",
    "letters", "pages", "points", "dollars", "euros", "bricks", "boxes", "cups",
    "pears", "oranges", "lemons", "plums", "peaches", "potatoes", "tomatoes", "carrots", "onions", "candies",
    "muffins", "sandwiches", "pizzas", "cakes", "rolls", "pencils", "crayons", "notebooks", "magazines",
    "newspapers", "postcards", "envelopes", "posters", "pictures", "maps", "toys", "dolls", "kites", "beads",
    "buttons", "ribbons", "candles", "lamps", "clocks", "plates", "spoons", "forks", "glasses", "jars", "baskets",
    "bags", "shirts", "socks", "hats", "gloves", "shoes", "screws", "nails", "bolts", "wires", "batteries",
    "tiles", "planks", "pebbles", "leaves", "seeds", "roses", "tulips", "ducks", "hens", "cows", "goats", "horses",
    "bees", "ants", "cars", "bikes", "wheels", "tools", "badges", "medals", "songs", "stories", "files", "emails",
    "messages", "robots", "magnets", "dice",
)  # fmt: skip
PEOPLE = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jack", "Kate", "Leo", "Mia", "Noah",
    "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor", "Wei", "Yuki", "Omar", "Lina",
    "Alice", "Adam", "Bella", "Carl", "Daisy", "Dan", "Elena", "Eric", "Eva", "Fatima", "Finn", "George", "Hana",
    "Henry", "Iris", "Ivan", "Jane", "Jonas", "Julia", "Karim", "Kenji", "Laura", "Liam", "Lucy", "Marco", "Maria",
    "Max", "Maya", "Nadia", "Nina", "Nora", "Oscar", "Peter", "Priya", "Ravi", "Ruth", "Sara", "Simon", "Sofia",
    "Theo", "Tom", "Vera", "Walter", "Zoe",
)  # fmt: skip
STORIES = {
    "+": (
        "I have {a} {things} and buy {b} more. How many do I have now?",
        "I have {a} {things} and get {b} more. How many {things} do I have?",
        "{name} has {a} {things} and finds {b} more. How many does {name} have now?",
        "{name} had {a} {things} and got {b} more. How many are there now?",
        "There are {a} {things} here and {b} {things} there. How many are there in total?",
        "There are {a} {things} in one box and {b} in another. How many in total?",
        "{name} has {a} {things} and {other} has {b}. How many do they have together?",
        "We have {a} {things}. We add {b} more. How many {things} are there now?",
        "A shop has {a} {things} and receives {b} more. How many {things} does it have now?",
        "{name} collects {a} {things} on Monday and {b} on Tuesday. How many altogether?",
        "{name} counts {a} {things}, then {b} more. How many {things} altogether?",
        "If I have {a} {things} and {other} gives me {b} more, how many do I have?",
        "{name} has {a} {things}. {other} has {b} more than {name}. How many {things} does {other} have?",
        "{other} owns {b} more {things} than {name}, who owns {a}. How many does {other} own?",
        "Yesterday {name} found {a} {things}, and today {b}. What is the total?",
        "With {a} {things} in the kitchen and {b} in the garage, how many are in the house?",
        "{a} {things} are on the table and {b} are on the floor. Count them all.",
        "Someone puts {b} {things} into a box that already holds {a}. How many are in it now?",
        "The box held {a} {things} before {name} put in {b} more. What is in it now?",
        "After {name} brings {b} more, how many {things} are there if we started with {a}?",
        "{name} owns {a} {things} already. For the birthday come {b} extra. New number of {things}?",
        "The first bag has {a} {things}, the second bag has {b}. Both bags together?",
        "Stock: {a} {things}. Delivery: {b} {things}. New stock?",
        "Morning: {a} {things}. Evening: {b} {things}. Total for the day?",
        "{a} {things} from {name} plus {b} {things} from {other}: how many {things} in all?",
        "{a} {things} were there, then {b} were added. How many is that?",
        "{name} makes {a} {things}, {other} makes {b}, and they put them all together. How many is that?",
        "{name} sold {a} {things} last week and {b} this week. How many were sold in both weeks?",
        "{name} drives {a} km before lunch and {b} km after it. How long is the whole trip?",
        "The train carries {a} people, and at the next stop {b} get on while nobody gets off. How many are on it?",
        "A class read {a} pages in May and {b} pages in June. How many pages did it read in these two months?",
        "A coat costs {a} dollars and a bag costs {b} dollars. What do both cost together?",
        "{name} pays {a} euros for food and {b} euros for a ticket. How much money is spent?",
        "{name} saved {a} dollars and earns another {b}. How much money does {name} have then?",
        "The price was {a} dollars and went up by {b}. What is the new price?",
        "{a} guests are already here, and {b} more arrive. How many guests is that?",
        "My score was {a} and I got {b} extra points. What is my score?",
        "A tower {a} cm high is put on a table {b} cm high. How high is the top above the floor?",
        "It takes {a} minutes to walk there and {b} minutes to walk back. How many minutes is that in total?",
        "In a field stand {a} {things} on the left and {b} on the right, so how many stand there?",
        "How many {things} do I own if I had {a} and was given {b}?",
        "How many {things} are in a room that had {a} when {b} others are brought in?",
        "Count the {things}: {name} brought {a} and {other} brought {b}.",
        "{a} {things} have been counted, {b} come on top. What number do I write down?",
        "{name} wins {b} {things} and already had {a}. How many are there after the win?",
    ),
    "-": (
        "I have {a} {things} and lose {b}. How many are left?",
        "I had {a} {things} and gave away {b}. How many do I have left?",
        "{name} has {a} {things} and sells {b} of them. How many are left?",
        "{name} had {a} {things} and lost {b}. How many {things} are left?",
        "There are {a} {things}. {b} are taken away. How many remain?",
        "There were {a} {things} and {b} are gone. How many are left?",
        "{name} gives {b} of {a} {things} to {other}. How many {things} are left?",
        "A shop has {a} {things} and sells {b}. How many {things} remain?",
        "We had {a} {things} and used {b}. How many do we have left?",
        "If I have {a} {things} and give {b} to {other}, how many do I have left?",
        "{name} has {a} {things}, {other} has {b}. How many more does {name} have?",
        "Out of {a} {things}, {b} are broken. How many are not?",
        "{name} wants {a} {things} but has only {b}. How many are missing?",
        "We need {a} {things} and {b} are already here. How many do we still need?",
        "{b} of the {a} {things} are red. How many have another color?",
        "From a box of {a} {things}, {name} takes out {b}. What is still inside?",
        "Of {a} {things}, {b} have been sold already. What number is unsold?",
        "{name} has {a} {things} and {other} has {b} fewer. How many does {other} have?",
        "{other} has {b} {things} fewer than {name}, who has {a}. How many does {other} have?",
        "There are {a} {things} and {b} people each take one. How many stay behind?",
        "{name} owned {a} {things} until {b} were stolen. How many did the thief leave?",
        "Stock: {a} {things}. Sold: {b}. Still in stock?",
        "{a} {things} were on the shelf this morning. Since then {b} were sold. How many stand there now?",
        "After {b} of our {a} {things} broke, how many are still whole?",
        "After giving {b} {things} to {other}, how many does {name} keep out of {a}?",
        "How many {things} stay with me if I hand {b} of my {a} to {other}?",
        "How many more are {a} {things} than {b} {things}?",
        "By how much is {a} larger than {b}, counted in {things}?",
        "{name} collected {a} {things}, {other} only {b}. What is the difference?",
        "A book has {a} pages and {name} has read {b} of them. How many pages are still to read?",
        "{name} pays {b} of {a} dollars of debt. How many dollars are still owed?",
        "{name} has {a} dollars and spends {b}. How much money is left?",
        "The price was {a} euros and falls by {b}. What is the new price?",
        "A bus carries {a} people and {b} get off while nobody gets on. How many are still on it?",
        "The road is {a} km long and {name} has walked {b} km of it. How far is it to the end?",
        "A rope is {a} meters long and {b} meters are cut off. How long is the rest?",
        "Of {a} guests, {b} have gone home. How many are still there?",
        "{a} seats, {b} taken. How many are free?",
        "{name} invited {a} people, but {b} cannot come. How many can come?",
        "There used to be {a} {things} here, then {b} fell into the water. How many did not fall?",
        "{name} scored {a} points and {other} scored {b}. By how many points did {name} win?",
        "Somebody removed {b} {things} from our pile of {a}. How big is the pile now?",
        "Take {b} {things} out of a basket with {a}. What is left in it?",
        "{b} {things} out of {a} got lost on the way. How many arrived?",
        "{name} throws away {b} {things} and keeps the rest. There were {a} at first. How many are kept?",
    ),
    "×": (
        "There are {a} boxes with {b} {things} each. How many {things} in total?",
        "I have {a} bags with {b} {things} in each bag. How many {things} do I have?",
        "{name} buys {a} packs of {b} {things}. How many {things} is that?",
        "{a} people have {b} {things} each. How many {things} do they have together?",
        "Each box holds {b} {things}. How many {things} are in {a} boxes?",
        "Each of {a} children has {b} {things}. How many {things} altogether?",
        "{name} reads {b} pages every day. How many pages in {a} days?",
        "One ticket costs {b} dollars. How much do {a} tickets cost?",
        "A shop sells {a} bags of {b} {things} each. How many {things} is that?",
        "There are {a} rows of {b} {things}. How many {things} are there?",
        "If {name} gets {b} {things} a day, how many are that in {a} days?",
        "We need {b} {things} for each of {a} tables. How many {things} do we need?",
        "{other} has {b} {things} and {name} has {a} times as many. How many does {name} have?",
        "With {b} {things} in every drawer, how many are in {a} drawers?",
        "{a} shelves stand in the room, and every shelf carries {b} {things}. What is the total?",
        "{a} packs, {b} {things} per pack. Total?",
        "{a} crates of {b} {things} each arrive today. How many {things} arrive?",
        "Count the {things}: {a} trucks came, and every truck brought {b}.",
        "{name} fills {a} jars and puts {b} {things} into each one. How many {things} does it take?",
        "{name} gives each of {a} friends {b} {things}. How many {things} are given away?",
        "{name} packs {b} {things} per box and closes {a} boxes. How many {things} are packed?",
        "Every one of the {a} pupils brings {b} {things}. How many {things} are brought to school?",
        "Every week {name} collects {b} {things}. What is the number after {a} weeks?",
        "In {a} rooms there are {b} {things} each, so how many are in the building?",
        "For {a} days in a row, {name} sold {b} {things} a day. How many were sold?",
        "A machine makes {b} {things} per hour and runs for {a} hours. How many does it make?",
        "The machine ran {a} minutes at {b} {things} a minute. What did it produce?",
        "How many {things} does {name} need to put {b} on each of {a} plates?",
        "How many {things} come together when {a} people each bring {b}?",
        "How many seats are there in {a} rows if each row has {b} seats?",
        "A car drives {b} km every hour. How far does it get in {a} hours?",
        "One shirt costs {b} euros. What is the price of {a} shirts?",
        "{name} earns {b} dollars an hour. How much money is that for {a} hours?",
        "{name} buys {a} toys at {b} dollars apiece. What is the bill?",
        "{name} runs {b} km on each of {a} days. How many km altogether?",
        "{name} saves {b} dollars a month. How much is saved after {a} months?",
        "A book has {b} pages. How many pages do {a} copies of it have?",
        "Each bus takes {b} people. How many people can ride in {a} full buses?",
        "The garden is {a} meters long and {b} meters wide. How many square meters is it?",
        "The hall has {a} tables, and {b} guests sit at each. How many guests are there?",
        "{a} ropes, each {b} meters long, are laid end to end. How long is the line?",
        "{a} teams with {b} players each take part. How many players is that?",
        "Order: {a} cartons with {b} {things} apiece. Number of {things}?",
        "Since each of the {a} workers carries {b} {things}, how many are carried in one go?",
        "If one basket holds {b} {things}, what do {a} such baskets hold?",
    ),
    "÷": (
        "{a} {things} are shared equally by {b} people. How many does each get?",
        "{b} children share {a} {things} equally. How many does each child get?",
        "I put {a} {things} into {b} boxes equally. How many are in each box?",
        "{name} divides {a} {things} among {b} friends. How many does each friend get?",
        "{a} {things} are split into {b} equal groups. How many are in each group?",
        "We have {a} {things} for {b} tables. How many {things} for each table?",
        "If {a} {things} are shared by {b} people, how many does each person get?",
        "A shop packs {a} {things} into {b} equal bags. How many {things} in each bag?",
        "There are {a} {things} in {b} equal rows. How many {things} are in each row?",
        "{name} reads {a} pages in {b} days. How many pages each day?",
        "{b} tickets cost {a} dollars. How much does one ticket cost?",
        "Share {a} {things} equally between {b} people. How many does each get?",
        "{name} has {a} {things}, which is {b} times as many as {other} has. How many does {other} have?",
        "How many bags do I need for {a} {things} if {b} go into each bag?",
        "How many groups of {b} can be made from {a} {things}?",
        "{b} {things} fit into one box. How many boxes are needed for {a} {things}?",
        "{name} gives away {a} {things}, {b} to each friend. How many friends get some?",
        "{name} uses {b} {things} a day. For how many days do {a} {things} last?",
        "{a} {things}, {b} people, fair shares. How many per person?",
        "{a} {things} come in {b} packs of the same size. What is in one pack?",
        "With {a} {things} spread evenly over {b} shelves, how many stand on one shelf?",
        "Each of {b} children gets the same share of {a} {things}. How big is a share?",
        "{b} workers carry {a} {things}, all of them the same number. How many does one worker carry?",
        "{b} equal bags hold {a} {things} in total. How many does one bag hold?",
        "{name} makes {b} equal piles out of {a} {things}. How large is one pile?",
        "{name} and the others are {b} people and share {a} {things} fairly. What does one person get?",
        "Deal out {a} {things} to {b} players so that all have the same number. How many per player?",
        "In {b} hours a machine makes {a} {things}, always at the same speed. How many in one hour?",
        "After {b} days of equal work there are {a} {things}. How many were made per day?",
        "Per person, how many {things} are there when {b} people split {a} evenly?",
        "What is the share of each when {b} people split {a} {things} equally?",
        "What does one of {b} heirs get if {a} {things} are handed out in equal parts?",
        "{b} identical shirts cost {a} euros. What is the price of one?",
        "The bill is {a} dollars, and {b} friends split it equally. How much does each pay?",
        "{name} earned {a} dollars in {b} hours. How much is that per hour?",
        "{name} drives {a} km in {b} hours at a steady speed. How far is that in one hour?",
        "A rope of {a} meters is cut into {b} equal pieces. How long is one piece?",
        "A rope of {a} meters is cut into pieces of {b} meters. How many pieces are there?",
        "One toy costs {b} dollars. How many toys can {name} buy with {a} dollars?",
        "{a} pupils form teams of {b}. How many teams are there?",
        "{a} guests sit at {b} tables, the same number at each. How many sit at one table?",
        "The book has {a} pages and {name} reads {b} a day. How many days does it take?",
        "{a} {things} are laid in rows of {b}. How many rows does that make?",
        "Total: {a} {things}. Boxes: {b}, all filled the same. Per box?",
        "To hand out {a} {things} evenly, {name} calls {b} children. What does every child receive?",
    ),
}
STORIES_HELD_OUT = {
    "+": (
        "{name} has {a} {things} and buys {b} more. How many {things} altogether?",
        "We had {a} {things} and found {b} more. How many do we have now?",
    ),
    "-": (
        "{name} had {a} {things} and gave away {b}. How many are left?",
        "There were {a} {things}. {b} are sold. How many {things} remain?",
    ),
    "×": (
        "{name} has {a} boxes with {b} {things} in each box. How many {things} altogether?",
        "There are {a} bags of {b} {things} each. How many {things} are there?",
    ),
    "÷": (
        "{name} shares {a} {things} equally among {b} friends. How many does each friend get?",
        "{a} {things} are put into {b} equal boxes. How many are in each box?",
    ),
}
THINGS_ZH = (
    "个苹果",
    "本书",
    "枚硬币",
    "张邮票",
    "张卡片",
    "支笔",
    "个鸡蛋",
    "块石头",
    "朵花",
    "只羊",
    "颗糖",
    "个球",
    "个梨",
    "个橘子",
    "个杯子",
    "个气球",
    "把椅子",
    "把钥匙",
    "支铅笔",
    "块橡皮",
    "块饼干",
    "块积木",
    "张照片",
    "张门票",
    "封信",
    "棵树",
    "只鸟",
    "只鸡",
    "条鱼",
    "条毛巾",
    "件衣服",
    "辆车",
    "瓶水",
    "盒牛奶",
    "颗珠子",
    "顶帽子",
)
PEOPLE_ZH = (
    "小明",
    "小红",
    "小丽",
    "小刚",
    "小华",
    "小王",
    "小李",
    "小张",
    "妈妈",
    "爸爸",
    "老师",
    "我",
    "小芳",
    "小强",
    "小军",
    "小美",
    "小林",
    "小陈",
    "小东",
    "小雪",
    "乐乐",
    "明明",
    "丽丽",
    "爷爷",
    "奶奶",
    "哥哥",
    "姐姐",
    "弟弟",
    "妹妹",
    "同学",
    "阿姨",
    "叔叔",
)
STORIES_ZH = {
    "+": (
        "{name}有{a}{things}，又买了{b}{things}，现在一共有多少？",
        "左边有{a}{things}，右边有{b}{things}，一共有多少？",
        "{name}有{a}{things}，又得到{b}{things}，现在有多少？",
        "{name}先数了{a}{things}，又数了{b}{things}，一共有多少？",
        "{name}上午收到{a}{things}，下午收到{b}{things}，这一天共收到多少？",
        "盒子里有{a}{things}，{name}再放进去{b}{things}，盒子里现在有多少？",
        "第一个箱子装{a}{things}，第二个箱子装{b}{things}，两个箱子共装多少？",
        "商店原有{a}{things}，又运来{b}{things}，现在有多少？",
        "{name}有{a}{things}，邻居比{name}多{b}{things}，邻居有多少？",
        "昨天卖了{a}{things}，今天卖了{b}{things}，两天共卖了多少？",
        "桌上放着{a}{things}，地上放着{b}{things}，加起来是多少？",
        "{name}本来有{a}{things}，朋友又送来{b}{things}，合起来有多少？",
        "库存{a}{things}，进货{b}{things}，新库存是多少？",
        "一件衣服{a}元，一个书包{b}元，两样共多少元？",
        "{name}先走了{a}米，接着又走了{b}米，共走了多少米？",
        "车上有{a}人，到站后上来{b}人，没有人下车，现在车上有多少人？",
    ),
    "-": (
        "{name}有{a}{things}，用了{b}{things}，还剩多少？",
        "原来有{a}{things}，拿走了{b}{things}，还剩下多少？",
        "{name}有{a}{things}，送出去{b}{things}，还有多少？",
        "商店有{a}{things}，卖了{b}{things}，还剩多少？",
        "{name}需要{a}{things}，现在只有{b}{things}，还差多少？",
        "{name}有{a}{things}，邻居有{b}{things}，{name}比邻居多多少？",
        "仓库里有{a}{things}，运走{b}{things}以后剩多少？",
        "一共{a}{things}，其中{b}{things}是红色的，其他颜色的有多少？",
        "{name}有{a}{things}，邻居比{name}少{b}{things}，邻居有多少？",
        "{name}弄丢了{b}{things}，原来有{a}{things}，现在剩下多少？",
        "箱子里装着{a}{things}，取出{b}{things}，箱子里还有多少？",
        "库存{a}{things}，售出{b}{things}，剩余多少？",
        "{name}带了{a}元，花了{b}元，还剩多少元？",
        "一本书有{a}页，{name}已经看了{b}页，还有多少页没看？",
        "车上有{a}人，下去{b}人，没有人上车，车上还有多少人？",
        "绳子长{a}米，剪掉{b}米，剩下多少米？",
    ),
    "×": (
        "每箱有{b}{things}，{a}箱一共有多少？",
        "有{a}个盒子，每个盒子里有{b}{things}，一共有多少？",
        "{a}个人每人有{b}{things}，一共有多少？",
        "{name}每天得到{b}{things}，{a}天一共得到多少？",
        "{name}买了{a}盒，每盒{b}{things}，共买了多少？",
        "一共有{a}排，每排摆{b}{things}，总数是多少？",
        "{a}个小朋友，每人分到{b}{things}，共需要多少？",
        "一袋装{b}{things}，{a}袋能装多少？",
        "邻居有{b}{things}，{name}的数量是邻居的{a}倍，{name}有多少？",
        "机器每小时做{b}{things}，{a}小时做多少？",
        "{a}个班，每班领{b}{things}，总共领多少？",
        "一张票{b}元，{a}张票要多少元？",
        "汽车每小时行{b}千米，{a}小时行多少千米？",
        "{name}每天看{b}页书，{a}天看多少页？",
        "每张桌子坐{b}人，{a}张桌子能坐多少人？",
        "长{a}米、宽{b}米的院子，面积是多少平方米？",
    ),
    "÷": (
        "{a}{things}平均分给{b}个人，每人得到多少？",
        "把{a}{things}平均放进{b}个盒子，每个盒子放多少？",
        "{b}个人平分{a}{things}，每人有多少？",
        "{name}把{a}{things}平均分成{b}份，每份有多少？",
        "有{a}{things}，每袋装{b}{things}，要装多少袋？",
        "{a}{things}摆成{b}排，每排一样多，一排有多少？",
        "{name}用{b}天收到{a}{things}，每天一样多，一天收到多少？",
        "{a}{things}，{b}个班平分，一个班分到多少？",
        "{name}有{a}{things}，是邻居的{b}倍，邻居有多少？",
        "{b}个一样的袋子共装{a}{things}，一个袋子装多少？",
        "{name}有{a}{things}，每天用{b}{things}，能用多少天？",
        "{b}张票共{a}元，一张票多少元？",
        "{a}元买单价{b}元的本子，能买多少本？",
        "{a}米长的绳子剪成{b}段一样长的，每段多少米？",
        "{a}页的书{b}天看完，每天看得一样多，一天看多少页？",
        "{a}个学生每{b}人一组，可以分成多少组？",
    ),
}
STORIES_ZH_HELD_OUT = {
    "+": ("{name}有{a}{things}，又买了{b}{things}，一共有多少？",),
    "-": ("{name}有{a}{things}，拿走了{b}{things}，还剩多少？",),
    "×": ("{a}个盒子每个有{b}{things}，一共有多少？",),
    "÷": ("把{a}{things}平均分给{b}个人，每人有多少？",),
}


def number(rng: random.Random, lengths: tuple[int, ...]) -> int:
    """A number of one of the lengths; sometimes with a zero or a nine inside, where carries go wrong."""
    digits = [str(rng.randrange(10)) for _ in range(rng.choice(lengths))]
    if rng.random() < 0.15:
        digits[rng.randrange(len(digits))] = rng.choice("09")
    return int("".join(digits))


def _task(rng: random.Random, sign: str) -> Task:
    """Two numbers for a sign, long ones more often than short ones."""
    if sign == "÷":
        if rng.random() < 0.08:
            b = 10 * rng.randrange(2, 10)
            return Task(b * rng.randrange(1, 999 // b + 1), sign, b)
        b = rng.randrange(1, 10) if rng.random() < 0.2 else rng.randrange(2, 10)
        most = 99 if rng.random() < 0.25 else 999
        return Task(b * rng.randrange(0 if rng.random() < 0.05 else 1, most // b + 1), sign, b)
    if sign == "×":
        if rng.random() < 0.45:
            return Task(rng.randrange(10, 100), sign, rng.randrange(10, 100))
        a, b = number(rng, (1, 2, 2, 3, 3, 3, 3)), rng.randrange(10)
        return Task(*((a, sign, b) if rng.random() < 0.65 else (b, sign, a)))
    a, b = number(rng, (1, 2, 2, 3, 3, 3, 3, 3)), number(rng, (1, 2, 2, 3, 3, 3, 3, 3))
    if sign == "-" and rng.random() < 0.1:
        b = max(0, min(999, a + rng.randrange(-12, 13)))
    return Task(a, sign, max(a, b) - b if sign == "+" and rng.random() < 0.05 else b)


def task(rng: random.Random, split: Split, sign: str, is_counting: bool = False) -> Task:
    """Numbers on the side of the split; of things that are counted there are at least two."""

    def make(rng: random.Random) -> Task:
        while True:
            made = _task(rng, sign)
            if not is_counting or min(made.a, made.b, made.result) > 1:
                return made

    return fitting(rng, split, make, lambda made: made.key)


def _expression(rng: random.Random, of: Task) -> str:
    """The task as people type it: 3 + 5, 3+5, 3 plus 5."""
    sign = rng.choice(SIGNS[of.sign])
    return f"{of.a}{sign}{of.b}" if len(sign) == 1 and sign != "x" and rng.random() < 0.35 else f"{of.a} {sign} {of.b}"


def _english(rng: random.Random, split: Split, sign: str) -> tuple[Task, str]:
    """A task and its question in English."""
    roll = rng.random()
    if roll < 0.25:
        counted = task(rng, split, sign, is_counting=True)
        name, other = rng.sample(PEOPLE, 2)
        story = wording(rng, split, STORIES[sign], STORIES_HELD_OUT[sign])
        return counted, story.format(a=counted.a, b=counted.b, things=rng.choice(THINGS), name=name, other=other)
    asked = task(rng, split, sign)
    if roll < 0.42:
        order = wording(rng, split, ORDERS[sign], ORDERS_HELD_OUT[sign]).format(a=asked.a, b=asked.b)
        if split == "templates":
            return asked, order
        if rng.random() < 0.35:
            return asked, rng.choice(IFS).format(order[0].lower() + order[1:-1])
        before = rng.choice(ORDERS_BEFORE)
        if before:
            order = before + order[0].lower() + order[1:]
        return asked, order[:-1] + "?" if before in ("Can you ", "Could you ") else order
    expression = _expression(rng, asked)
    if roll < 0.55:
        expression = rng.choice(PHRASES[sign]).format(a=asked.a, b=asked.b)
    question = wording(rng, split, FRAMES, FRAMES_HELD_OUT).format(expression)
    return asked, question[0].upper() + question[1:]


def _chinese(rng: random.Random, split: Split, sign: str) -> tuple[Task, str]:
    """A task and its question in Chinese."""
    roll = rng.random()
    if roll < 0.2:
        counted = task(rng, split, sign, is_counting=True)
        story = wording(rng, split, STORIES_ZH[sign], STORIES_ZH_HELD_OUT[sign])
        return counted, story.format(a=counted.a, b=counted.b, things=rng.choice(THINGS_ZH), name=rng.choice(PEOPLE_ZH))
    asked = task(rng, split, sign)
    if roll < 0.4:
        return asked, wording(rng, split, ORDERS_ZH[sign], ORDERS_ZH_HELD_OUT[sign]).format(a=asked.a, b=asked.b)
    space = rng.choice(("", "", " "))
    expression = f"{asked.a}{space}{rng.choice(SIGNS_ZH[sign])}{space}{asked.b}"
    return asked, wording(rng, split, FRAMES_ZH, FRAMES_ZH_HELD_OUT).format(expression)


def draw(rng: random.Random, split: Split) -> Exchange:
    """One calculation, with its working and its result."""
    sign = rng.choice("+-×÷×")
    if rng.random() < 0.2:
        asked, question = _chinese(rng, split, sign)
        result = f"答案是{asked.result}。"
    else:
        asked, question = _english(rng, split, sign)
        result = f"The answer is {asked.result}."
    return Exchange("arithmetic", question, f"{asked.working} {result}", thought=asked.working)
