"""Deflection: requests beyond a small demo, which it declines, saying what it is and how to run a real model."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

import made_up
from exchange import Exchange, Split, is_held_out, vary, wording

PARAMETERS, PARAMETERS_ZH = "about 6 million parameters", "大约600万个参数"
REAL = "octavo chat Qwen/Qwen3-0.6B"
ANSWER = f"I am a demo model of {PARAMETERS} and cannot do that. A real model can: `{REAL}`."
ANSWER_ZH = f"我是只有{PARAMETERS_ZH}的演示模型，做不到这个。请用真正的模型：`{REAL}`。"
FACTS = (("demo", "演示"), ("Qwen/Qwen3-0.6B",))
SHARE_ZH = 0.2


@dataclass(frozen=True)
class Request:
    """One kind of request: its wordings, with the names of word lists in braces."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def split_list(text: str) -> tuple[str, ...]:
    """The entries of a list written with commas."""
    return tuple(" ".join(each.split()) for each in text.split(","))


WORDS: Mapping[str, tuple[str, ...]] = {
    "work": split_list(
        """a poem, an essay, a song, a long letter, a speech, a novel, a haiku, an article, a blog post, a report, a
        theater play, a rap, a limerick, a film script, a book review, a love letter, a newspaper article, a sermon,
        a slogan, a press release, a cover letter, a diary entry, a term paper, an ode, a ballad, a sonnet, a school
        essay, an advertisement, a comic, a thesis, a eulogy, a birthday card, a manifesto"""
    ),
    "subject": split_list(
        """the sea, autumn, love, war, freedom, cats, the moon, climate change, football, my grandmother, the Roman
        Empire, friendship, artificial intelligence, chocolate, space travel, the mountains, whales, money, time,
        dreams, school, Napoleon, robots, coffee, the desert, music, democracy, bees, winter, happiness, the future,
        trains, volcanoes, the internet, my dog, loneliness, cheese, the rain, summer holidays, elephants, the city
        at night, hope, recycling, pirates, ice cream, ancient Egypt, dinosaurs, social media, growing old, the
        stars, peace"""
    ),
    "language": split_list(
        """Python, Java, C, C++, Rust, JavaScript, Go, SQL, Haskell, Ruby, Kotlin, Swift, Bash, PHP, Lua"""
    ),
    "program": split_list(
        """a web server, a sorting algorithm, a calculator, a chess program, a binary search, a snake game, a to-do
        app, a web scraper, a parser, a linked list, a program that prints primes, a function that reverses a
        string, a password generator, a chat bot, a login page, a script that renames files, a quicksort, a hash
        table, a Fibonacci function, a clock, a compiler, a text editor, a database query, a unit test, a regular
        expression, a class for bank accounts, a program that counts words, a file uploader, a tic-tac-toe game, a
        stack"""
    ),
    "person": split_list(
        """Albert Einstein, Napoleon, Marie Curie, Julius Caesar, Mozart, Shakespeare, Cleopatra, Gandhi, Picasso,
        Newton, Beethoven, Leonardo da Vinci, Abraham Lincoln, Charles Darwin, Confucius, Elvis Presley, Plato,
        Galileo, Queen Victoria, Alan Turing, Columbus, Aristotle, Goethe, Van Gogh, Nelson Mandela, Marco Polo,
        Frida Kahlo"""
    ),
    "country": split_list(
        """France, Germany, Italy, Japan, China, Brazil, Canada, Egypt, India, Mexico, Norway, Peru, Poland, Portugal,
        Spain, Sweden, Turkey, Kenya, Chile, Cuba, Greece, Iceland, Ireland, Nepal, Vietnam, Australia, Argentina,
        Austria, Belgium, Denmark, Finland, Hungary, Iran, Israel, Morocco, Nigeria, Thailand, Ukraine, Bolivia,
        Mongolia"""
    ),
    "science": split_list(
        """quantum physics, the theory of relativity, photosynthesis, black holes, evolution, the Big Bang, DNA,
        gravity, the stock market, inflation, democracy, plate tectonics, the water cycle, electricity, magnetism,
        vaccines, the French Revolution, the Cold War, calculus, organic chemistry, string theory, the human heart,
        genetics, the solar system, existentialism, Buddhism, game theory, supply and demand, nuclear fusion, the
        immune system, blockchain, the Renaissance, thermodynamics, dark matter, the periodic table, psychology, the
        Middle Ages"""
    ),
    "why": split_list(
        """is the sky blue, do cats purr, is the sea salty, do we dream, do birds fly south, is grass green, do we
        sleep, do leaves fall, is fire hot, do stars shine, do people yawn, is snow white, do dogs bark, does ice
        float, do onions make us cry, is Mars red, does the moon change, do zebras have stripes, is glass
        transparent"""
    ),
    "symptom": split_list(
        """a headache, a fever, a cough, back pain, a sore throat, a rash, a broken arm, chest pain, high blood
        pressure, diabetes, the flu, a toothache, insomnia, an allergy, a stomach ache, a burn, a cold, asthma,
        nausea, a swollen knee"""
    ),
    "sentence": split_list(
        """good morning, where is the station, I love you, the weather is nice, how much is it, I am hungry, see you
        soon, my house is small, the cat sleeps, we are friends, I do not understand, happy new year, the book is
        red, thank you very much, what is your name, I lost my key, the train is late, have a nice day, it is cold
        today"""
    ),
    "tongue": split_list(
        """French, German, Spanish, Italian, Japanese, Russian, Arabic, Latin, Korean, Dutch, Portuguese, Greek, Hindi,
        Turkish"""
    ),
    "event": split_list(
        """the World Cup, the election, the Olympics, the last war, the football match, the Oscars, the Nobel Prize,
        the tennis final, the Super Bowl, the song contest, the Tour de France, the marathon, the chess championship"""
    ),
    "when": split_list(
        """today, yesterday, this week, last year, in 1945, in 2020, last night, in 1969, this morning, in 1815"""
    ),
    "task": split_list(
        """fix my car, cook rice, bake a cake, lose weight, learn the piano, get rich, repair a roof, grow tomatoes,
        train a dog, file my taxes, tie a tie, paint a wall, build a boat, make friends, sleep better, quit smoking,
        write a novel, buy a house, change a tire, knit a scarf, clean a carpet, invest money, plant a tree, brew
        beer, learn French, play chess, remove a stain, sew a button, ride a horse, find a job, pass my exam, cut my
        hair"""
    ),
    "decision": split_list(
        """quit my job, buy a house, get married, move to Spain, buy bitcoin, call my ex, study law, get a dog, sell my
        car, lend him money, go to the party, tell her the truth, change schools, have children, sue my neighbor,
        eat meat, buy an electric car, invest in gold, learn Latin, dye my hair, go vegan, leave my husband, take
        the pills"""
    ),
    "opinion": split_list(
        """the president, religion, capitalism, abortion, nuclear power, pineapple on pizza, modern art, the death
        penalty, electric cars, tattoos, soccer, Elon Musk, vegan food, remote work, communism, guns, zoos,
        marriage, taxes, immigration, hip hop, the new government, homework, cloning, opera, astrology, the royal
        family, plastic bags"""
    ),
    "favorite": split_list(
        """color, food, film, book, song, city, animal, team, season, number, band, country, hobby, game"""
    ),
    "media": split_list(
        """a good book, a movie, a restaurant, a video game, a holiday, a podcast, a gift for my wife, a laptop, a
        wine, a series, a phone, a museum, a perfume, a bicycle, a beach, an album, a camera, a hotel in Rome, a
        name for my cat"""
    ),
    "picture": split_list(
        """a cat, a house, a sunset, a dragon, my family, a logo, a map of Europe, a car, a flower, a robot, a castle,
        a horse"""
    ),
    "role": split_list(
        """a pirate, a doctor, my teacher, a king, Sherlock Holmes, a lawyer, a therapist, my girlfriend, a wizard, a
        cowboy, Darth Vader, a job interviewer, a travel guide, a poet, an alien, a detective, a chef, a
        philosopher, a vampire"""
    ),
    "game": split_list(
        """chess, a quiz, hangman, tic-tac-toe, poker, twenty questions, a word game, a trivia game, checkers, Go"""
    ),
    "thing": split_list(
        """the telephone, the light bulb, the bicycle, paper, the airplane, the computer, penicillin, the radio, the
        car, television, gunpowder, the printing press, the steam engine, the microscope, dynamite, the piano, the
        zipper"""
    ),
    "height": split_list(
        """Mount Everest, the Eiffel Tower, the Nile, the moon, the Pacific Ocean, the Sahara, a blue whale, Big Ben,
        Kilimanjaro"""
    ),
    "equation": split_list(
        """x^2 + 3x = 10, the integral of sin(x), the derivative of x^3, the square root of 1234567, 2x + 7 = 19, the
        limit of 1/x, 17 to the power of 9, the determinant of a matrix, log(500), 100 factorial, x^3 = 27, the
        cosine of 40 degrees, the area of a circle, the prime factors of 8633, y' = y, the sum from 1 to 1000"""
    ),
    "text": split_list(
        """this article, my essay, this book, the last chapter, my email, this paragraph, the news, the Bible, this
        report, my letter, Hamlet, this contract, the lecture, my homework, this paper, the meeting, my thesis, War
        and Peace"""
    ),
}
WORDS_ZH: Mapping[str, tuple[str, ...]] = {
    "work": tuple(
        """一首诗 一篇作文 一首歌 一封长信 一篇演讲稿 一部小说 一篇文章 一篇论文 一份报告 一段相声 一首七言绝句
        一篇影评""".split()
    ),
    "subject": tuple(
        """大海 秋天 爱情 战争 自由 猫 月亮 气候变化 足球 我的奶奶 友谊 春节 长城 梦想 时间 机器人 音乐 未来
        咖啡 旅行 家乡 星空""".split()
    ),
    "program": tuple(
        """网页服务器 排序算法 计算器 贪吃蛇游戏 爬虫 二分查找 登录页面 密码生成器 聊天机器人 链表 单元测试""".split()
    ),
    "person": tuple(
        """爱因斯坦 拿破仑 李白 孔子 牛顿 莫扎特 秦始皇 居里夫人 鲁迅 达芬奇 贝多芬 诸葛亮 武则天 毕加索""".split()
    ),
    "country": tuple(
        """法国 德国 意大利 日本 巴西 加拿大 埃及 印度 墨西哥 挪威 西班牙 泰国 越南 希腊 韩国 俄罗斯 澳大利亚""".split()
    ),
    "science": tuple(
        """量子力学 相对论 光合作用 黑洞 进化论 大爆炸 重力 股票市场 通货膨胀 微积分 有机化学 弦理论 区块链
        文艺复兴 免疫系统""".split()
    ),
    "symptom": tuple("""头疼 发烧 咳嗽 背痛 喉咙痛 失眠 过敏 胃痛 感冒 牙疼 胸闷 高血压""".split()),
    "sentence": tuple(
        """早上好 车站在哪里 我爱你 天气很好 多少钱 我饿了 猫在睡觉 我们是朋友 新年快乐 火车晚点了""".split()
    ),
    "tongue": tuple("""法语 德语 西班牙语 意大利语 日语 俄语 阿拉伯语 韩语 拉丁语""".split()),
    "task": tuple(
        """修车 做饭 烤蛋糕 减肥 学钢琴 赚钱 种番茄 报税 戒烟 买房 找工作 学法语 通过考试 交朋友 刷墙""".split()
    ),
    "decision": tuple("""辞职 买房 结婚 搬到北京 买比特币 养狗 卖车 学法律 换学校 生孩子 借钱给他""".split()),
    "media": tuple("""一本好书 一部电影 一家餐厅 一个游戏 一首歌 一份礼物 一台电脑 一个旅游景点 一部电视剧""".split()),
    "event": tuple("""世界杯 选举 奥运会 昨天的比赛 诺贝尔奖 奥斯卡 马拉松 国际象棋冠军赛""".split()),
}

REQUESTS = (
    Request(
        (
            "Write {work} about {subject}.",
            "Write me {work} about {subject}.",
            "Can you write {work} about {subject}?",
            "I need {work} about {subject}.",
            "Compose {work} on {subject}.",
            "Please write {work}.",
            "Could you write {work} on the topic of {subject}?",
            "Can you write {work}?",
        ),
        ("Make up {work} about {subject}.", "I would like you to write {work} about {subject}."),
    ),
    Request(
        (
            "Write {program} in {language}.",
            "Code {program} in {language}.",
            "How do I write {program} in {language}?",
            "Can you program {program}?",
            "Give me {language} code for {program}.",
            "Implement {program} in {language}.",
            "Can you write {language} code?",
            "Debug my {language} program.",
            "Show me {program} in {language}.",
        ),
        ("Please program {program} in {language}.", "I want {program} written in {language}."),
    ),
    Request(
        (
            "Who was {person}?",
            "When was {person} born?",
            "Tell me about the life of {person}.",
            "What did {person} do?",
            "When did {person} die?",
            "What is {person} famous for?",
            "Where did {person} live?",
            "Who is {person}?",
        ),
        ("Where was {person} born?", "What do you know about {person}?"),
    ),
    Request(
        (
            "What is the capital of {country}?",
            "How many people live in {country}?",
            "Where is {country}?",
            "Who is the president of {country}?",
            "What do people eat in {country}?",
            "Tell me about the history of {country}.",
            "Which language do they speak in {country}?",
            "How big is {country}?",
            "Plan a trip to {country}.",
            "What is the flag of {country}?",
        ),
        ("Which city is the capital of {country}?", "What is the largest city of {country}?"),
    ),
    Request(
        (
            "Explain {science}.",
            "What is {science}?",
            "How does {science} work?",
            "Can you explain {science} to me?",
            "Tell me about {science}.",
            "Teach me {science}.",
            "What do you know about {science}?",
            "Give me a lecture on {science}.",
            "Why {why}?",
            "Can you tell me why {why}?",
        ),
        ("Describe {science}.", "I want to understand {science}."),
    ),
    Request(
        (
            "I have {symptom}. What should I do?",
            "What helps against {symptom}?",
            "Which medicine is good for {symptom}?",
            "How do I treat {symptom}?",
            "Is {symptom} dangerous?",
            "My child has {symptom}.",
            "Do I need a doctor for {symptom}?",
            "What causes {symptom}?",
        ),
        ("How do I get rid of {symptom}?", "What can I take for {symptom}?"),
    ),
    Request(
        (
            'Translate "{sentence}" into {tongue}.',
            "Translate to {tongue}: {sentence}",
            'How do you say "{sentence}" in {tongue}?',
            'What is "{sentence}" in {tongue}?',
            "Can you translate into {tongue}?",
            "Speak {tongue} with me.",
            "Do you speak {tongue}?",
            "Please translate this into {tongue}: {sentence}",
        ),
        ('Say "{sentence}" in {tongue}.', 'What does "{sentence}" mean in {tongue}?'),
    ),
    Request(
        (
            "Who won {event} {when}?",
            "What happened {when}?",
            "What is in the news {when}?",
            "Who won {event}?",
            "When is {event}?",
            "Tell me the latest news about {event}.",
            "What happened in {country} {when}?",
            "How did {event} end?",
        ),
        ("Who was the winner of {event} {when}?", "Give me the news from {country}."),
    ),
    Request(
        (
            "How do I {task}?",
            "How can I {task}?",
            "Teach me how to {task}.",
            "Help me to {task}.",
            "What is the best way to {task}?",
            "I want to {task}. Any tips?",
            "Give me tips to {task}.",
            "Show me how to {task}.",
        ),
        ("Tell me how to {task}.", "Explain step by step how to {task}."),
    ),
    Request(
        (
            "Should I {decision}?",
            "Is it a good idea to {decision}?",
            "I want to {decision}. What do you think?",
            "Do you think I should {decision}?",
            "Give me advice: should I {decision}?",
            "My friend says I should {decision}.",
        ),
        ("Would you {decision}?", "I do not know if I should {decision}."),
    ),
    Request(
        (
            "What do you think about {opinion}?",
            "What is your opinion on {opinion}?",
            "Do you like {opinion}?",
            "Is {opinion} good or bad?",
            "Are you for or against {opinion}?",
            "What is your favorite {favorite}?",
            "Which {favorite} do you like best?",
            "Do you believe in {opinion}?",
        ),
        ("How do you feel about {opinion}?", "What do you say about {opinion}?"),
    ),
    Request(
        (
            "Recommend {media}.",
            "Can you recommend {media}?",
            "Suggest {media}.",
            "I am looking for {media}.",
            "Help me find {media}.",
        ),
        ("Do you know {media} for me?", "Choose {media} for me."),
    ),
    Request(
        (
            "Draw {picture}.",
            "Paint {picture} for me.",
            "Show me a picture of {picture}.",
            "Make an image of {picture}.",
            "Can you draw {picture}?",
            "Create a photo of {picture}.",
        ),
        ("Generate an image with {picture}.", "I want a drawing of {picture}."),
    ),
    Request(
        (
            "Pretend to be {role}.",
            "Act as {role}.",
            "Play the role of {role}.",
            "You are now {role}.",
            "Talk like {role}.",
            "Let's play {game}.",
            "Play {game} with me.",
            "Can you play {game}?",
        ),
        ("Speak to me as {role} would.", "Do you want to play {game}?"),
    ),
    Request(
        (
            "Who invented {thing}?",
            "When was {thing} invented?",
            "How tall is {height}?",
            "How far away is {height}?",
            "How does {thing} work?",
            "How old is {height}?",
            "Where is {height}?",
        ),
        ("Who made the first version of {thing}?", "How large is {height}?"),
    ),
    Request(
        (
            "Solve {equation}.",
            "What is {equation}?",
            "Compute {equation}.",
            "Calculate {equation}.",
            "Can you solve {equation}?",
            "Prove {equation}.",
            "What is {number} * {number}?",
            "Calculate {number} * {number}.",
            "{number} / {number} = ?",
            "What is {number} divided by {number}?",
        ),
        ("Find {equation}.", "Multiply {number} by {number}."),
    ),
    Request(
        (
            "Summarize {text}.",
            "Correct {text}.",
            "Make {text} shorter.",
            "Improve the style of {text}.",
            "Can you summarize {text} for me?",
            "Rewrite {text} in better English.",
            "Check the grammar of {text}.",
            "What is {text} about?",
        ),
        ("Give me a summary of {text}.", "Please proofread {text}."),
    ),
    Request(
        (
            "Tell me a joke about {subject}.",
            "Tell me a riddle about {subject}.",
            "Do you know a joke about {subject}?",
            "Give me ten ideas about {subject}.",
            "Make a quiz about {subject}.",
            "Let's talk about {subject}.",
            "What can you tell me about {subject}?",
            "I want to discuss {subject}.",
            "Tell me a fun fact about {subject}.",
        ),
        ("Make me laugh with a joke about {subject}.", "Let us have a conversation about {subject}."),
    ),
    Request(
        (
            "What is the weather in {town}?",
            "What time is it in {town}?",
            "How do I get to {town}?",
            "Book a flight to {town}.",
            "What can I see in {town}?",
            "Where is {town}?",
            "How far is {town} from here?",
            "Find a hotel in {town}.",
            "What is a {word}?",
            "What does {word} mean?",
            "Who is {name}?",
            "Call {name}.",
            "Send an email to {name}.",
        ),
        ("How is the weather in {town} today?", "Do you know {name}?"),
    ),
)
REQUESTS_ZH = (
    Request(
        (
            "写{work}，关于{subject}。",
            "请写{work}。",
            "帮我写{work}，主题是{subject}。",
            "你能写{work}吗？",
            "以{subject}为题写{work}。",
        ),
        ("给我写{work}，讲{subject}。",),
    ),
    Request(
        ("用Python写一个{program}。", "怎么用Java写{program}？", "帮我写{program}的代码。", "请实现{program}。"),
        ("请用C语言编写{program}。",),
    ),
    Request(
        ("{person}是谁？", "{person}是哪一年出生的？", "介绍一下{person}。", "{person}做过什么？"),
        ("讲讲{person}的生平。",),
    ),
    Request(
        ("{country}的首都是哪里？", "{country}有多少人口？", "{country}的总统是谁？", "介绍一下{country}的历史。"),
        ("{country}首都是哪个城市？",),
    ),
    Request(
        ("解释一下{science}。", "什么是{science}？", "{science}是什么？", "请讲讲{science}。"), ("我想了解{science}。",)
    ),
    Request(
        ("我{symptom}怎么办？", "{symptom}吃什么药？", "怎么治{symptom}？", "{symptom}危险吗？"),
        ("{symptom}了要看医生吗？",),
    ),
    Request(
        (
            "把“{sentence}”翻译成{tongue}。",
            "“{sentence}”用{tongue}怎么说？",
            "翻译成{tongue}：{sentence}",
            "你会说{tongue}吗？",
        ),
        ("请用{tongue}说“{sentence}”。",),
    ),
    Request(("怎么{task}？", "如何{task}？", "教我{task}。", "我想{task}，有什么建议？"), ("告诉我怎样{task}。",)),
    Request(
        ("我应该{decision}吗？", "你觉得我该不该{decision}？", "{decision}好不好？"), ("我在想要不要{decision}。",)
    ),
    Request(("推荐{media}。", "请给我推荐{media}。", "我想找{media}。"), ("有什么好的推荐吗？我要{media}。",)),
    Request(
        (
            "谁赢了{event}？",
            "{event}什么时候？",
            "今天有什么新闻？关于{event}的。",
            "你怎么看{subject}？",
            "讲个关于{subject}的笑话。",
        ),
        ("{event}的结果是什么？",),
    ),
    Request(
        ("{town}今天天气怎么样？", "{town}怎么走？", "{town}有什么好玩的？", "{number}乘以{number}等于多少？"),
        ("{town}现在几点？",),
    ),
)


def make_large(rng: random.Random) -> str:
    """A number beyond what it can calculate with."""
    return str(rng.randint(10_000, 9_999_999))


OPEN = {
    "town": made_up.town,
    "name": made_up.full_name,
    "word": made_up.word,
    "number": made_up.Held("large", make_large),
}
OPEN_ZH = OPEN | {"town": made_up.town_zh}


def on_side(words: tuple[str, ...], held_out: bool) -> tuple[str, ...]:
    """The words that are kept from training, or the others."""
    return tuple(word for word in words if is_held_out(word) == held_out)


def filled(rng: random.Random, split: Split, template: str, words: Mapping[str, tuple[str, ...]]) -> str | None:
    """The request with words; for "values" at least one that training never shows, None if there is none."""
    is_new = split != "values"
    for name, maker in (OPEN_ZH if words is WORDS_ZH else OPEN).items():
        while f"{{{name}}}" in template:
            template = template.replace(f"{{{name}}}", str(maker(rng, split)), 1)
            is_new = True
    for name, all_words in words.items():
        if f"{{{name}}}" not in template:
            continue
        choice = on_side(all_words, held_out=split == "values")
        is_new = is_new or bool(choice)
        template = template.replace(f"{{{name}}}", rng.choice(choice or all_words))
    return template if is_new else None


def draw(rng: random.Random, split: Split) -> Exchange:
    """A request beyond the demo's means and the fixed answer to it."""
    is_chinese = rng.random() < SHARE_ZH
    question = None
    while question is None:
        request = rng.choice(REQUESTS_ZH if is_chinese else REQUESTS)
        template = wording(rng, split, request.train, request.held_out)
        if split == "values" and "{" not in template:
            continue
        question = filled(rng, split, template, WORDS_ZH if is_chinese else WORDS)
    exchange = Exchange("deflection", question, ANSWER_ZH if is_chinese else ANSWER, facts=FACTS)
    return replace(vary(rng, exchange), may_be_varied=False)
